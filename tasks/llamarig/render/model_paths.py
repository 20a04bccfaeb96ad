"""Paths of model files on a box, and of the records beside them."""

from __future__ import annotations

from llamarig.records.model_lock import LockedFile, LockedModel
from llamarig.render import layout
from llamarig.render.server_arguments import ModelFiles

GIB = 1024**3


def target(locked: LockedModel, file: LockedFile) -> str:
    """Path of a file on the box."""
    return f"{layout.model_directory(locked.repo, locked.commit)}/{file.path}"


def record(locked: LockedModel, file: LockedFile) -> str:
    """Path of the record of a file whose sha256 matched (written by remote/download/fetch_shards.py)."""
    return record_of(target(locked, file))


def record_of(path: str) -> str:
    """Path of the record of a model file, beside it."""
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.verified.json"


def partial(file: LockedFile) -> str:
    """Path of a file until its sha256 matched; on the same file system, so that the last step is a rename."""
    return f"{layout.MODELS}/.partial/{file.sha256}"


def model_files(locked: LockedModel) -> ModelFiles:
    """Paths for llama-server."""
    return ModelFiles(
        model=target(locked, locked.shards[0]),
        mmproj=target(locked, locked.mmproj) if locked.mmproj else None,
        draft=target(locked, locked.draft) if locked.draft else None,
        other_shards=tuple(target(locked, shard) for shard in locked.shards[1:]),
    )
