"""The model lock: commit and files of each declared model, so that a rebuilt box gets the same bytes."""

from __future__ import annotations

import shlex
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from llamarig.declare.base import Declaration
from llamarig.declare.model import Model, Repo, hub_path
from llamarig.declare.rig import Rig
from llamarig.records import store
from llamarig.records.base import StoredRecord
from llamarig.remote.shared.gguf_header import KEPT_STRING


class LockedFile(Declaration):
    """One file of a Hub repository; ``size`` in bytes, ``sha256`` from the Hub's LFS metadata."""

    path: Annotated[str, AfterValidator(hub_path)]
    size: int = Field(ge=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LockedModel(Declaration):
    """The files of one model at one commit of its repository; ``shards`` in the order of llama.cpp."""

    repo: Repo
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    shards: tuple[LockedFile, ...] = Field(min_length=1)
    mmproj: LockedFile | None = None
    draft: LockedFile | None = None
    architecture: str | None = Field(default=None, max_length=KEPT_STRING)
    """general.architecture of the first shard; None in older entries, and where the Hub did not send it."""

    @property
    def files(self) -> list[LockedFile]:
        """Every file of the model."""
        return [*self.shards, *(file for file in (self.mmproj, self.draft) if file is not None)]


class ModelLock(StoredRecord):
    """All locked models, by `lock_key`."""

    title: ClassVar[str] = "model lock"

    models: dict[str, LockedModel] = Field(default={})


def lock_key(model: Model) -> str:
    """Key of a model in the lock: everything that selects its files on the Hub, in one line.

    File names are included with their role, because the same file has another effect in ``files`` than as ``mmproj``.
    """
    roles = [("quant", model.quant), *(("file", path) for path in model.files)]
    roles += [("mmproj", model.mmproj), ("draft", model.draft)]
    words = [f"{role}={shlex.quote(name)}" for role, name in roles if name]
    return " ".join([f"{model.repo}@{model.revision}", *words])


def read_model_lock(path: str) -> ModelLock:
    """Read the model lock; an empty one where there is no file.

    :raises RecordError: when the file cannot be read, or is not a valid model lock
    """
    return store.read(path, ModelLock)


def locked_models(rig: Rig) -> list[LockedModel] | None:
    """Lock entries of a box's models, in the order of ``rig.models``; None while one is missing.

    :raises RecordError: when the file cannot be read, or is not a valid model lock
    """
    lock = read_model_lock(rig.model_lock)
    entries = [lock.models.get(lock_key(model)) for model in rig.models]
    return None if None in entries else [entry for entry in entries if entry is not None]


def lock_model(path: str, key: str, entry: LockedModel) -> LockedModel:
    """Add a model to the lock. An entry that another run has added since is kept.

    :returns: the entry in the lock now
    :raises RecordError: when the file cannot be read or written
    """
    added = store.update(path, ModelLock, lambda lock: ModelLock(models={key: entry, **lock.models}))
    return added.models[key]


def move_locked_model(path: str, key: str, entry: LockedModel) -> None:
    """Replace the entry of a model in the lock.

    :raises RecordError: when the file cannot be read or written
    """
    store.update(path, ModelLock, lambda lock: ModelLock(models={**lock.models, key: entry}))
