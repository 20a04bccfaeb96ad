"""A model file's arrival: sha256, the way to its own name, and the record that makes later runs a matter of `stat`.

Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_BLOCK = 8 * 1024**2


def digest(path: Path, told: Callable[[int], None] = lambda done: None) -> str:
    """sha256 of the whole file; ``told`` hears how many bytes have been read."""
    hasher, done = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
            done += count
            told(done)
    return hasher.hexdigest()


def arrive(part: Path, target: Path, sha256: str, group: str | None) -> None:
    """To the disk, to its name, and only then to the record. A crash between leaves a file that is checked again.

    :param group: may read the file, besides root; None leaves its group alone
    """
    descriptor = os.open(part, os.O_RDONLY)
    try:
        if group is not None:
            os.fchown(descriptor, -1, grp.getgrnam(group).gr_gid)
        os.fchmod(descriptor, 0o640)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)
    stat = target.stat()
    record = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino, "sha256": sha256}
    written = record_path(target).with_suffix(".part")
    written.write_text(json.dumps(record))
    written.replace(record_path(target))


def record_path(target: Path) -> Path:
    """Where it is written that a file's sha256 was checked, and of which size, mtime and inode that is true."""
    return target.with_name(f".{target.name}.verified.json")


def is_recorded(target: Path, file: dict[str, Any]) -> bool:
    """Whether the file is there and unchanged since its sha256 matched."""
    try:
        record, stat = json.loads(record_path(target).read_text()), target.stat()
    except (OSError, ValueError):
        return False
    seen = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino, "sha256": file["sha256"]}
    return bool(record == seen)
