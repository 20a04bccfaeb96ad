"""Puts a complete model file in place, with a record of its verified sha256, so that later runs only need a `stat`."""

from __future__ import annotations

import grp
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from llamarig.remote.shared.durable import replace_file, sync_directory
from llamarig.remote.shared.jobs import FetchFile

_BLOCK = 8 * 1024**2


def sha256_of(path: Path, progress: Callable[[int], None] = lambda hashed: None) -> str:
    """Hexadecimal sha256 of the whole file.

    :param progress: called with the number of bytes hashed so far
    """
    hasher, done = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
            done += count
            progress(done)
    return hasher.hexdigest()


def install_verified(part: Path, target: Path, sha256: str, group: str | None, *, keep_mode: bool = False) -> None:
    """Sync a verified file to the disk, rename it, and only then write its record.

    A crash in between leaves a file without a record, which is hashed again.

    :param group: may read the file, besides root; None leaves its group unchanged
    :param keep_mode: leave its mode, too: it has another name elsewhere
    """
    descriptor = os.open(part, os.O_RDONLY)
    try:
        if group is not None:
            os.fchown(descriptor, -1, grp.getgrnam(group).gr_gid)
        if not keep_mode:
            os.fchmod(descriptor, 0o640)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)
    sync_directory(target.parent)
    stat = target.stat()
    record = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino, "sha256": sha256}
    replace_file(record_path(target), json.dumps(record))


def record_path(target: Path) -> Path:
    """Path of the record that a file's sha256 was verified, with the size, mtime and inode it had then."""
    return target.with_name(f".{target.name}.verified.json")


def is_verified(target: Path, file: FetchFile) -> bool:
    """Whether the file exists and is unchanged since its sha256 matched the locked one."""
    try:
        record, stat = json.loads(record_path(target).read_text()), target.stat()
    except (OSError, ValueError):
        return False
    current = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino, "sha256": file.sha256}
    return bool(record == current)
