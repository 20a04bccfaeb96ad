"""Verifies the files of a release against its manifest, and moves a finished release into place."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from typing import Any

from llamarig.remote.download.verified_files import sha256_of
from llamarig.remote.shared.durable import sync_directory

INSTALLED = ".installed"
"""File beside the releases: a line for each that was put in place, in order. Clocks of boxes are set."""

# include/uapi/linux/fcntl.h and fs.h
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def damaged(release: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of the files that are missing, or differ from the manifest in size or sha256."""
    return [
        name
        for name, recorded in sorted(manifest["files"].items())
        if not _is_as_recorded(release / "bin" / name, recorded)
    ]


def _is_as_recorded(path: Path, recorded: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == recorded["size"] and sha256_of(path) == recorded["sha256"]


def put_in_place(part: Path, release: Path) -> None:
    """Rename the finished directory. It replaces a damaged one of that name, which may serve, in one step."""
    _note(release)
    os.sync()
    replaced = part
    if not release.exists():
        part.rename(release)
    elif not _exchange(part, release):
        replaced = release.with_name(release.name + ".broken")
        shutil.rmtree(replaced, ignore_errors=True)
        release.rename(replaced)
        part.rename(release)
    # Before a unit file that names it is: only some file systems (ext4) keep the order of changes to two directories.
    sync_directory(release.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _note(release: Path) -> None:
    with (release.parent / INSTALLED).open("a") as file:
        file.write(f"{release.name}\n")
        file.flush()
        os.fsync(file.fileno())


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two directories; return False on a file system that cannot (NFS)."""
    # A system call since Linux 3.15, in glibc since 2.28. Python has no function for it.
    library = ctypes.CDLL(None, use_errno=True)
    done: int = library.renameat2(_AT_FDCWD, bytes(first), _AT_FDCWD, bytes(second), _RENAME_EXCHANGE)
    return done == 0
