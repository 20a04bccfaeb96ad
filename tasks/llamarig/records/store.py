"""Reads and writes every file that llamarig keeps on the control machine, atomically and under a lock."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from llamarig.declare.mistakes import mistakes
from llamarig.records.base import VERSION_KEY, StoredRecord
from llamarig.remote.shared.durable import LockHeldError, locked, replace_file

M = TypeVar("M", bound=StoredRecord)

_REMEDIES = {
    errno.ENOENT: "create its directory, or name a file in another one",
    errno.EEXIST: "name a file in a directory",  # a file is where its directory should be
    errno.ENOTDIR: "name a file in a directory",
    errno.ENOSPC: "free some space there, and run this again",
    errno.EDQUOT: "free some space there, and run this again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), and run this again",
}


class RecordError(Exception):
    """A record cannot be read or written; the message names the file, what is wrong, and what to do."""


def read(path: str, schema: type[M]) -> M:
    """Read a record.

    :returns: an empty record where there is no file
    :raises RecordError: when the file cannot be read, or holds something else
    """
    content = _content(path)
    if content is None:
        return schema()
    return _parsed(content, schema, path, "restore it from git")


def update(path: str, schema: type[M], change: Callable[[M], M]) -> M:
    """Read a record, change it and write it, while no other process or greenlet does so.

    The file is written only where ``change`` returns something else than it was given.

    :param change: must not touch the same file, and should do no slow work, because others wait for it
    :returns: the record as the file now holds it
    :raises RecordError: when the file cannot be read or written, or holds something else; it is then unchanged
    """
    with _exclusive(path, create_directory=True) as file:
        record = read(path, schema)
        changed = change(record)
        if changed != record:
            _replace(path, file, _text(changed))
        return changed


def write(path: str, record: StoredRecord) -> None:
    """Write a record, whatever the file held before.

    :raises RecordError: when it cannot be written
    """
    with _exclusive(path, create_directory=True) as file:
        _replace(path, file, _text(record))


def read_lines(path: str, schema: type[M]) -> list[M]:
    """Read a JSON-lines file, the oldest record first; blank lines are skipped.

    :returns: no records where there is no file
    :raises RecordError: naming the first line that holds no such record
    """
    remedy = "restore it from git, or delete the line"
    lines = (_content(path) or b"").split(b"\n")
    return [
        _parsed(line, schema, f"{path} line {number}", remedy) for number, line in enumerate(lines, 1) if line.strip()
    ]


def append_line(path: str, record: StoredRecord) -> None:
    """Add a record to the end of a JSON-lines file. The records before it are not read, and kept as they are.

    :raises RecordError: when it cannot be written
    """
    line = json.dumps({**record.model_dump(mode="json"), VERSION_KEY: record.version}, sort_keys=True) + "\n"
    with _exclusive(path, create_directory=True) as file:
        before = _content(path) or b""
        if before and not before.endswith(b"\n"):
            before += b"\n"  # an editor may have removed the end of the last line
        _replace(path, file, before + line.encode())


def write_text(path: str, text: str) -> None:
    """Write a text file. Unlike a record's, its directory must exist.

    :raises RecordError: when it cannot be written
    """
    with _exclusive(path, create_directory=False) as file:
        _replace(path, file, text.encode())


def _text(record: StoredRecord) -> bytes:
    content = {**record.model_dump(mode="json", exclude_defaults=True), VERSION_KEY: record.version}
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _content(path: str) -> bytes | None:
    """Content of a file; None where there is none."""
    file = Path(path)
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise RecordError(f"{path} cannot be read (not a regular file): move it away, or restore it from git")
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(
            f"{path} cannot be read ({error.strerror}): make it a readable file, or restore it from git"
        ) from None


def _parsed(content: bytes, schema: type[M], where: str, remedy: str) -> M:
    try:
        content.decode()
        fields = from_json(content)
    except UnicodeDecodeError as error:
        raise _invalid(where, schema, f"byte {error.start} is not UTF-8", remedy) from None
    except ValueError as error:
        raise _invalid(where, schema, f"invalid JSON: {error}", remedy) from None
    if not isinstance(fields, dict):
        raise _invalid(where, schema, "the JSON is not an object", remedy)
    _check_version(fields.pop(VERSION_KEY, 1), schema, where, remedy)
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        first, *others = mistakes(error)
        more = f", and {len(others)} more" if others else ""
        raise _invalid(where, schema, f"{first.field}: {first.message}{more}".removeprefix(": "), remedy) from None


def _check_version(version: Any, schema: type[StoredRecord], where: str, remedy: str) -> None:
    if type(version) is not int or version < 1:
        raise _invalid(where, schema, f"{VERSION_KEY} is {version!r}, not a number from 1", remedy)
    if version > schema.version:
        raise RecordError(
            f"{where} was written by a newer llamarig ({schema.title}, {VERSION_KEY} {version}; this one reads up to "
            f"{schema.version}): upgrade llamarig on this machine, or {remedy}"
        )


def _invalid(where: str, schema: type[StoredRecord], why: str, remedy: str) -> RecordError:
    return RecordError(f"{where} is not a valid {schema.title} ({why}): {remedy}")


@contextmanager
def _exclusive(path: str, *, create_directory: bool) -> Iterator[Path]:
    """Lock a file for writing; yields what is to be replaced, which is the target where ``path`` is a symbolic link."""
    with ExitStack() as held:
        with _writing(path):
            file = _target(path, create_directory)
            held.enter_context(locked(file))
        yield file


def _target(path: str, create_directory: bool) -> Path:
    """The file that is to be replaced: the target where ``path`` is a symbolic link."""
    file = Path(path).resolve()
    if file.is_symlink():  # a link to itself: from Python 3.13 on resolve() gives it back
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if create_directory:
        file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and not file.is_file():
        raise RecordError(f"{path} cannot be written (not a regular file): name another file, or move it away")
    return file


@contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "make its directory writable for you, or name another file")
        raise RecordError(f"{path} cannot be written ({error.strerror}): {remedy}") from None
    except LockHeldError as error:
        raise RecordError(
            f"{path} cannot be written ({error}): wait for that run to end, or stop it, and run this again"
        ) from None
    except RuntimeError as error:  # Path.resolve() of a symbolic link to itself, before Python 3.13
        raise RecordError(f"{path} cannot be written ({error}): name another file") from None


def _replace(path: str, file: Path, content: bytes) -> None:
    """Replace a file, or create it; the caller holds its lock."""
    with _writing(path):
        replace_file(file, content)
