"""Replaces files so that crashes, power cuts, full disks and other writers lose nothing.

A file is written to a temporary name beside it and synced, renamed over the old one, and the directory is synced. After
a crash or a power cut it therefore holds the old or the new content, and never a part of one.

Writers that read a file, change it and replace it exclude each other with `flock` on a lock file beside it
(`.plans.json.lock`):

- The file itself cannot be locked, because the rename replaces it. A lock on the directory would make unrelated files
  wait for each other, and NFS refuses it, because a directory cannot be opened for writing.
- The lock file is removed before the lock is released, so that none is left in the user's git repository. Whoever then
  gets a lock on the removed file notices that and tries again. The kernel releases the lock of a process that dies.
- The lock is polled and not waited for. pyinfra runs every host in a greenlet of one process, and a blocking `flock`
  would stop the whole process, the greenlet that holds the lock included. pyinfra's command line replaces `time.sleep`
  by gevent's, so that polling lets the other greenlets run. Without gevent it is an ordinary sleep.

Readers take no lock: a rename is atomic.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

LOCK_WAIT_S = 60.0
"""How long a writer waits for another one. Writing takes milliseconds, so the other one hangs or has been suspended."""
_POLL_S = 0.02


class LockHeldError(Exception):
    """Another process has held the lock of a file for too long. ``lock``: path of the lock file."""

    def __init__(self, lock: Path) -> None:
        super().__init__(f"another run of llamarig has held {lock} for {LOCK_WAIT_S:.0f} s")
        self.lock = lock


# --- replace ----------------------------------------------------------------------------------------------------------


def replace_file(path: Path, content: str | bytes, *, mode: int | None = None) -> None:
    """Replace a file, or create it.

    :param content: text is written as UTF-8
    :param mode: permissions, in place before the content is; None keeps those of the old file
    :raises OSError: when it cannot be written; the old file is then unchanged
    """
    replace_files({path: content}, mode=mode)


def replace_files(contents: Mapping[Path, str | bytes], *, mode: int | None = None) -> None:
    """Replace several files, in the order given. All are on the disk before the first is renamed: it may become full.

    Parameters and errors are those of `replace_file`.
    """
    parts: list[tuple[Path, Path]] = []
    try:
        for path, content in contents.items():
            _remove_left_over(path)
            part = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(8).hex()}.part")
            parts.append((part, path))
            _write(part, content.encode() if isinstance(content, str) else content, _mode_for(path, mode))
        for part, path in parts:
            part.replace(path)
    except BaseException:
        for part, _ in parts:
            part.unlink(missing_ok=True)
        raise
    for directory in {path.parent for path in contents}:
        sync_directory(directory)


def _write(path: Path, content: bytes, mode: int | None) -> None:
    # Not readable by others before it has its mode.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if mode is not None:
            with suppress(PermissionError):  # a file system without modes
                os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def _mode_for(path: Path, mode: int | None) -> int | None:
    if mode is None:
        with suppress(FileNotFoundError):
            return stat.S_IMODE(path.stat().st_mode)
    return mode


def _remove_left_over(path: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for part in path.parent.glob(f".{escape(path.name)}.*.part"):
        writer = re.search(r"\.(\d+)-[0-9a-f]{16}\.part$", part.name)
        if writer is None or not _runs(int(writer[1])):
            part.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # of another user
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def sync_directory(directory: Path) -> None:
    """Put renames within a directory on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # some file systems sync files only
            raise
    finally:
        os.close(descriptor)


# --- lock -------------------------------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Exclude other writers of a file, in this process and others, while it is read, changed and replaced.

    :raises LockHeldError: when another one holds it for too long
    :raises OSError: when no lock file can be made beside the file
    """
    lock = path.with_name(f".{path.name}.lock")
    descriptor = _lock(lock)
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _lock(lock: Path) -> int:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_open_at(lock, descriptor):
                return descriptor
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise LockHeldError(lock)
        time.sleep(_POLL_S)


def _is_open_at(lock: Path, descriptor: int) -> bool:
    """Whether the locked file is still the one at this path: the holder before removes it."""
    try:
        return os.path.samestat(lock.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
