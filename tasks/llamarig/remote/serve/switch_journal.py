"""The journal of a switch: what served before it, on the disk before anything is stopped.

A box has at most one journal. It is there exactly while a switch is unfinished: a switch ends by recording the start of
the new server (its commit), or by restoring what served, and deletes the journal afterwards. Whatever interrupts it
(an error, a signal, a power cut) leaves the journal for roll_back.py.

Copies of the old unit files lie beside them: each is restored by a rename, which needs no space on a full disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Optional

from llamarig.remote.serve import model_units
from llamarig.remote.serve.model_units import credentials_of, file_identity, is_healthy, set_identity, state_of
from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.job_status import JobFailedError
from llamarig.remote.shared.jobs import StartRecord, SwitchJob
from llamarig.remote.shared.record import Record
from llamarig.remote.shared.server_client import arguments_of
from llamarig.remote.shared.unit_directives import directives

JOURNAL = "switch-journal"
"""Name of the file, in the directory of the start records."""
UNREADABLE = f"{JOURNAL}.unreadable"


class FileBefore(NamedTuple):
    """A unit's file. ``text``: None where there was none; ``identity``: empty where it is unknown."""

    unit: str
    text: str | None
    identity: str


@dataclass(frozen=True)
class UnitBefore(Record):
    """A unit that a switch may stop. ``served``: whether it ran; ``enabled``: whether it started at boot.

    ``text``: the unit file that it served with; ``unit_file``: identity of that file. None for the switched unit
    itself, for one that did not serve, and in the journal of an earlier version: that file is left as it is.
    """

    unit: str
    served: bool
    enabled: bool
    text: Optional[str] = None
    unit_file: str = ""


@dataclass(frozen=True)
class Journal(Record):
    """What to return to.

    ``unit``: the one that is switched; ``text``: its unit file, None where there was none; ``unit_file``: identity of
    that file, empty where it is unknown; ``record``: sha256 of its
    start record, None where there was none; ``units``: itself and those stopped for it; ``load_timeout_s``: how long
    the switch waits for a server to load; ``port``: of the unit, and
    mostly of those that it replaces.
    """

    unit: str
    text: Optional[str]
    unit_file: str
    record: Optional[str]
    units: tuple[UnitBefore, ...]
    load_timeout_s: int
    port: int

    @property
    def served(self) -> tuple[str, ...]:
        """Names of the units that served."""
        return tuple(one.unit for one in self.units if one.served)

    @property
    def files(self) -> tuple[FileBefore, ...]:
        """The unit files to return to, that of the switched unit first."""
        others = (FileBefore(one.unit, one.text, one.unit_file) for one in self.units if one.text is not None)
        return (FileBefore(self.unit, self.text, self.unit_file), *others)


def what_serves(job: SwitchJob, left: Journal | None = None) -> Journal:
    """Find out what serves now, for a switch.

    :param left: the journal of an interrupted switch that has just been undone: what serves may still be loading
    :raises JobFailedError: where systemd does not report which units are active, or their files cannot be read
    """
    directory = Path(job.proof).parent
    try:
        unit, *others = [_unit_before(name) for name in dict.fromkeys((job.unit, *job.peers, *job.retired))]
        known = {file.unit: file for file in left.files} if left is not None else {}
        own = known.get(job.unit) or _file_before(directory, unit)
        files = {one.unit: known.get(one.unit) or _file_before(directory, one) for one in others if one.served}
        digest = _record_digest(directory, job.unit)
    except OSError as error:
        raise JobFailedError(
            f"what serves now cannot be read ({error.strerror}: {error.filename}); nothing was changed"
        ) from None
    if read_start_record(directory, job.unit) is not None and not any(one.served for one in (unit, *others)):
        unit = replace(unit, served=True)
    units = (unit, *(_with_file(one, files.get(one.unit)) for one in others))
    return Journal(job.unit, own.text, own.identity, digest, units, job.load_timeout_s, job.port)


def _with_file(unit: UnitBefore, file: FileBefore | None) -> UnitBefore:
    return unit if file is None else replace(unit, text=file.text, unit_file=file.identity)


def _file_before(directory: Path, unit: UnitBefore) -> FileBefore:
    """The file that the unit serves with. One that has answered is better than one that does not answer now."""
    path, record, state = model_units.UNITS / unit.unit, read_start_record(directory, unit.unit), state_of(unit.unit)
    text = path.read_text() if path.exists() else None
    answers = unit.served and text is not None and is_healthy(unit.unit, state["MainPID"])
    # The file may have been edited, or replaced, since the process was started with the text of the record.
    if record is not None and (not answers or _is_recorded_start(unit.unit, record, state, text)):
        return FileBefore(unit.unit, record.text, record.unit_file)
    return FileBefore(unit.unit, text, file_identity(path))


def _is_recorded_start(unit: str, record: StartRecord, state: dict[str, str], text: str | None) -> bool:
    """Whether the process was started with the record's text: the same start, or after a boot the same command line.

    :param text: of the file as it is now; another one with the same directives is as good
    """
    if record.invocation and record.invocation == state["InvocationID"]:
        return True
    if text is None or directives(text) == directives(record.text):
        return False
    try:
        arguments = arguments_of(state["MainPID"])
    except OSError:  # it has ended
        return False
    # What the flags were checked with is the unit's command line with the files of its credentials, and --help.
    files = {f"/run/credentials/{unit}/{name}": path for name, path in credentials_of(record.text).items()}
    return [*(files.get(word, word) for word in arguments), "--help"] == list(record.job.check)


def write_journal(directory: Path, journal: Journal) -> None:
    """Write the copies of the unit files and the journal, and wait until all are on the disk.

    :raises JobFailedError: when they cannot be written
    """
    try:
        for file in journal.files:
            if file.text is not None:
                replace_file(copy_of(file.unit), file.text, mode=0o644)
                set_identity(copy_of(file.unit), file.identity)
        replace_file(directory / JOURNAL, json.dumps(journal.to_json()))
    except OSError as error:
        raise JobFailedError(
            f"what serves now cannot be saved, so a failure could not be undone ({error.strerror}: "
            f"{error.filename}); nothing was changed"
        ) from None


def unfinished_switch(directory: Path) -> Journal | None:
    """Read the journal that an unfinished switch has left; None where there is none.

    A journal that cannot be read is moved aside, and what is on the box stays as it is. One of a switch that recorded
    its start is deleted: that switch has succeeded. To be called with the lock held.
    """
    path = directory / JOURNAL
    try:
        journal = Journal.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        _delete_copies()
        return None
    except (OSError, ValueError) as error:  # RecordError is a ValueError
        print(f"{path} cannot be read ({error}): moved to {UNREADABLE}, nothing is restored from it", file=sys.stderr)
        with contextlib.suppress(OSError):
            path.replace(directory / UNREADABLE)
        return None
    if is_committed(directory, journal):
        delete_journal(directory, journal)
        return None
    return journal


def _delete_copies() -> None:
    """Delete the copies. Without a journal they are of a switch that was killed before it changed anything."""
    for copy in model_units.UNITS.glob(copy_of("*").name):
        with contextlib.suppress(OSError):
            copy.unlink()


def is_committed(directory: Path, journal: Journal) -> bool:
    """Whether the switch has recorded the start of the new server, its last step."""
    try:
        return _record_digest(directory, journal.unit) != journal.record
    except OSError:  # a record that cannot be read proves nothing
        return False


def delete_journal(directory: Path, journal: Journal) -> None:
    """Delete the journal, then the copies: the switch has ended. If it was committed, a rollback can undo it now."""
    replaced = replaced_record(directory, journal.unit)
    with contextlib.suppress(OSError):
        if is_committed(directory, journal):
            replaced.replace(directory / f"{journal.unit}.previous.json")
        else:
            replaced.unlink()
    with contextlib.suppress(OSError):
        (directory / JOURNAL).unlink()
    _delete_copies()


def replaced_record(directory: Path, unit: str) -> Path:
    """Path of the start record that a switch replaces, until its journal is deleted."""
    return directory / f"{unit}.replaced"


def copy_of(unit: str) -> Path:
    """Path of the copy of a unit file during a switch."""
    return model_units.UNITS / f"{unit}.llamarig-before"


@contextlib.contextmanager
def journal_lock(directory: Path, *, wait_s: float = 0) -> Iterator[None]:
    """Hold the lock of switches and restores: a second one would take a half-started model for what served before.

    :param wait_s: seconds to wait for another one
    :raises BlockingIOError: when another one still holds it
    """
    directory.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    # For reading: the liveness probe may not write here. Its mode, because who may read a file may lock it.
    descriptor = os.open(directory / ".switch-lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor) as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield


def read_start_record(directory: Path, unit: str) -> StartRecord | None:
    """Read the record of a unit's last successful start; None where there is no usable one.

    :param directory: where the records of all units are
    """
    try:
        record = json.loads((directory / f"{unit}.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        return None
    return StartRecord.from_stored(record)


def _record_digest(directory: Path, unit: str) -> str | None:
    """Return the sha256 of a unit's start record, None where there is none.

    :raises OSError: for one that cannot be read
    """
    try:
        return hashlib.sha256((directory / f"{unit}.json").read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _unit_before(unit: str) -> UnitBefore:
    state = state_of(unit)
    if not state["ActiveState"]:
        raise JobFailedError(f"systemd does not report whether {unit} serves (systemctl show); nothing was changed")
    return UnitBefore(unit, state["ActiveState"] in ("active", "activating"), state["UnitFileState"] == "enabled")
