"""Takes model files that already lie on the box: found by size, proved by sha256, then cloned, linked, copied or moved.

What comes of them is ours alone: a clone or a copy, or a file of root's that nobody else may write. A file of another
user would stay writable under its other name, so it is never hard-linked.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llamarig.remote.download.store_lock import exclusive_use, refuse_links
from llamarig.remote.download.verified_files import install_verified, sha256_of
from llamarig.remote.shared.job_status import JobFailedError, Progress, run_job
from llamarig.remote.shared.jobs import ImportFile, ImportJob

_FICLONE = 0x40049409
"""ioctl that makes a file share the blocks of another: btrfs, XFS, bcachefs (linux/fs.h)."""
_BLOCK = 8 * 1024**2
_MOST_ENTRIES = 500_000
_GIB = 1024**3

Report = Callable[[str, int], None]
"""What is done now, and how many bytes of the file are done."""


@dataclass(frozen=True)
class Taken:
    """A file that was found. ``how``: cloned, linked, copied or moved."""

    source: str
    how: str


class Imports:
    """The files below the directories that a job names."""

    def __init__(self, store: Path, reserve: int, group: str | None) -> None:
        """:param store: the model store, whose own files are no imports
        :param reserve: bytes that a copy leaves free there
        :param group: may read the files, besides root; None leaves their groups unchanged
        """
        self.store = os.path.realpath(store)
        self.reserve = reserve
        self.group = group
        self.found: dict[str, dict[int, list[Path]]] = {}

    def take(self, file: ImportFile, report: Report) -> Taken | None:
        """Put the locked bytes in place, from the first file that has them; None where none has.

        :raises JobFailedError: where a copy has no room
        """
        for path in self._of_size(file):
            taken = self._take(path, file, report)
            if taken is not None:
                return taken
        return None

    def _of_size(self, file: ImportFile) -> list[Path]:
        """Files of the locked size, those of the same name first, each once."""
        paths: dict[Path, None] = {}
        for directory in file.directories:
            if directory not in self.found:
                self.found[directory] = self._sizes(directory)
            paths |= dict.fromkeys(self.found[directory].get(file.size, []))
        name = Path(file.target).name
        return sorted(paths, key=lambda path: (path.name != name, str(path)))

    def _sizes(self, directory: str) -> dict[int, list[Path]]:
        sizes: dict[int, list[Path]] = {}
        for path in regular_files(directory):
            if not str(path).startswith(f"{self.store}/"):
                try:
                    sizes.setdefault(path.stat().st_size, []).append(path)
                except OSError:
                    continue  # gone in the meantime
        return sizes

    def _take(self, path: Path, file: ImportFile, report: Report) -> Taken | None:
        part, target = Path(file.partial), Path(file.target)
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            print(f"{path} cannot be read: {error.strerror}", flush=True)
            return None
        try:
            found = os.fstat(source)
            if not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
                return None
            part.unlink(missing_ok=True)
            how = _move(path, part, found) if file.move else ""
            how = how or _clone(source, part) or _link(path, part, found)
            if how:
                report(f"verifying {path}", 0)
                digest = sha256_of(part, lambda done: report(f"verifying {path}", done))
            else:
                how = "copied"
                self._check_room(file)
                digest = _copy(source, part, lambda done: report(f"copying {path}", done))
        finally:
            os.close(source)
        if digest != file.sha256:
            print(f"{path} has the size of {target.name}, but another sha256: not taken", flush=True)
            _undo(path, part, found, how)
            return None
        install_verified(part, target, file.sha256, None if how == "linked" else self.group, keep_mode=how == "linked")
        if file.move and how != "moved":
            _remove(path)
            how = "moved to this file system"
        return Taken(str(path), how)

    def _check_room(self, file: ImportFile) -> None:
        free = shutil.disk_usage(Path(file.partial).parent).free
        if free - file.size < self.reserve:
            raise JobFailedError(
                f"a copy of {Path(file.target).name} needs {file.size / _GIB:.2f} GiB, and "
                f"{self.reserve / _GIB:.2f} GiB stay free, but {free / _GIB:.2f} GiB are free on the model store: make "
                "room, or declare import_by='move'"
            )


def regular_files(directory: str) -> Iterator[Path]:
    """Real paths of the regular files below a directory, also behind links to files and directories, each once."""
    seen: set[tuple[int, int]] = set()
    waiting = [directory]
    entries = 0
    while waiting:
        current = os.path.realpath(waiting.pop())
        try:
            status = Path(current).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(current) as found:
                listed = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            print(f"import_from {current}: {error.strerror}", flush=True)
            continue
        for entry in listed:
            entries += 1
            if entries > _MOST_ENTRIES:
                print(
                    f"import_from {directory}: more than {_MOST_ENTRIES} entries, the rest was not looked at",
                    flush=True,
                )
                return
            try:
                if entry.is_dir():
                    waiting.append(entry.path)
                elif entry.is_file():
                    path = Path(os.path.realpath(entry.path))
                    key = path.stat()
                    if (key.st_dev, key.st_ino) not in seen:
                        seen.add((key.st_dev, key.st_ino))
                        yield path
                elif entry.is_symlink():
                    print(f"{entry.path} leads to {Path(entry.path).readlink()}, which is not there", flush=True)
            except OSError:
                continue  # gone in the meantime


def _move(path: Path, part: Path, found: os.stat_result) -> str:
    """Rename the file, and make it root's; not one that has another name, which its owner could still write."""
    if found.st_nlink > 1:
        return ""
    try:
        path.rename(part)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        return ""
    os.chown(part, 0, -1)
    return "moved"


def _clone(source: int, part: Path) -> str:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.ioctl(descriptor, _FICLONE, source)
        return "cloned"
    except OSError:
        part.unlink()
        return ""
    finally:
        os.close(descriptor)


def _link(path: Path, part: Path, found: os.stat_result) -> str:
    """Link a file of root's that everybody may read and nobody else write: its owner and mode stay as they are."""
    writable = stat.S_IWGRP | stat.S_IWOTH
    if found.st_uid != 0 or found.st_mode & writable or not found.st_mode & stat.S_IROTH:
        return ""
    try:
        os.link(path, part, follow_symlinks=False)
    except OSError:
        return ""
    return "linked"


def _copy(source: int, part: Path, progress: Callable[[int], None]) -> str:
    """Copy the file; returns the sha256 of what was written."""
    hasher, done = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_BLOCK))
    target = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while count := os.readv(source, [buffer]):
            _write_all(target, buffer[:count])
            hasher.update(buffer[:count])
            done += count
            progress(done)
    finally:
        os.close(target)
    return hasher.hexdigest()


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _undo(path: Path, part: Path, found: os.stat_result, how: str) -> None:
    if how == "moved":
        os.chown(part, found.st_uid, found.st_gid)
        part.rename(path)
    else:
        part.unlink()


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        print(f"{path} was copied, and cannot be removed: {error.strerror}", flush=True)


def _is_there(file: ImportFile) -> bool:
    target = Path(file.target)
    return target.exists() and target.stat().st_size == file.size


def import_files(job: ImportJob, progress: Progress) -> str:
    """Take every file of the job that lies on the box; returns the closing line. Files that do not are downloaded next.

    :raises JobFailedError: where a copy has no room
    """
    store = Path(job.store)
    refuse_links(store, [file.target for file in job.files])
    partials = store / ".partial"
    partials.mkdir(parents=True, exist_ok=True)
    total, done = sum(file.size for file in job.files), 0
    taken: list[str] = []
    with exclusive_use(partials):
        imports = Imports(store, job.reserve, job.group)
        for file in job.files:
            before = done

            def report(step: str, count: int, before: int = before) -> None:
                progress.step(step, done=before + count, total=total, unit="bytes")

            name = Path(file.target).name
            report(f"looking for {name}", 0)
            # A file that is there is verified by the download, which replaces it where it is wrong.
            found = None if _is_there(file) else imports.take(file, report)
            done += file.size
            if found is None:
                print(
                    f"{name}: no file of {file.size} bytes with its sha256 in {', '.join(file.directories)}", flush=True
                )
            else:
                print(f"{name}: {found.how} from {found.source}", flush=True)
                taken.append(f"{name} {found.how}")
    missing = len(job.files) - len(taken)
    rest = f"{missing} of {len(job.files)} not found there, and downloaded" if missing else ""
    return "; ".join([*taken, *filter(None, [rest])])


if __name__ == "__main__":
    run_job(ImportJob, import_files)
