"""Descriptions of the differences between a lock entry and the Hub."""

from __future__ import annotations

from llamarig.records.lock_changes import lock_changes
from llamarig.records.model_lock import LockedFile, LockedModel
from llamarig.render.model_paths import GIB

SHA = "a" * 64
FILE = LockedFile(path="Q6/m-00001-of-00002.gguf", size=10 * GIB, sha256=SHA)
OTHER = LockedFile(path="Q6/m-00002-of-00002.gguf", size=4 * GIB, sha256="b" * 64)
LOCKED = LockedModel(repo="o/r", commit="c" * 40, shards=(FILE, OTHER))


def test_every_difference_is_one_line() -> None:
    newer = LockedModel(
        repo="o/r",
        commit="e" * 40,
        shards=(FILE.model_copy(update={"sha256": "f" * 64}), LockedFile(path="x.gguf", size=GIB, sha256=SHA)),
    )
    assert lock_changes(LOCKED, LOCKED.model_copy(update={"commit": "e" * 40})) == []
    assert lock_changes(LOCKED, newer) == [
        "removed: Q6/m-00002-of-00002.gguf",
        "new: x.gguf, 1.00 GiB",
        f"changed: Q6/m-00001-of-00002.gguf, 10.00 GiB to 10.00 GiB, sha256 {'a' * 12}... to {'f' * 12}...",
    ]
    as_mmproj = LOCKED.model_copy(update={"shards": (FILE,), "mmproj": OTHER})
    assert lock_changes(LOCKED, as_mmproj) == [f"locked as a file of the model, declared as mmproj: {OTHER.path}"]
