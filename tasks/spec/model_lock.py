"""The model lock: what each declared model was resolved to, once; a rebuilt box gets the same bytes."""

from __future__ import annotations

import shlex
from typing import Annotated

from pydantic import AfterValidator, Field

from tasks.spec.base import Declaration
from tasks.spec.model import Model, Repo, hub_path


class LockedFile(Declaration):
    """One file of a Hub repository; ``size`` in bytes, ``sha256`` as the Hub's LFS metadata has it."""

    path: Annotated[str, AfterValidator(hub_path)]
    size: int = Field(ge=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LockedModel(Declaration):
    """The files of one model at one commit of its repository. ``shards`` are in llama.cpp's order."""

    repo: Repo
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    shards: tuple[LockedFile, ...] = Field(min_length=1)
    mmproj: LockedFile | None = None
    draft: LockedFile | None = None

    @property
    def files(self) -> list[LockedFile]:
        """Every file of the model."""
        return [*self.shards, *(file for file in (self.mmproj, self.draft) if file is not None)]


class ModelLock(Declaration):
    """All locked models, by what was asked for."""

    models: dict[str, LockedModel] = Field(default={})


def lock_key(model: Model) -> str:
    """What a model asks of the Hub, in one line: the same line always means the same lock entry.

    Each name stands with what it is for: a projector named among the files is served as another model than one named as
    mmproj.
    """
    asked = [("quant", model.quant), *(("file", path) for path in model.files)]
    asked += [("mmproj", model.mmproj), ("draft", model.draft)]
    words = [f"{role}={shlex.quote(name)}" for role, name in asked if name]
    return " ".join([f"{model.repo}@{model.revision}", *words])
