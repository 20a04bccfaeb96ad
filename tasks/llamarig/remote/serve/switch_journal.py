"""The journal of a switch: what served before it, on the disk before anything is stopped.

A box has at most one journal. It is there exactly while a switch is unfinished: a switch ends by recording the start of
the new server (its commit), or by restoring what served, and deletes the journal afterwards. Whatever interrupts it
(an error, a signal, a power cut) leaves the journal for roll_back.py.

A copy of the old unit file lies beside the unit file: it is restored by a rename, which needs no space on a full disk.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from llamarig.remote.serve import model_units
from llamarig.remote.serve.model_units import file_identity, is_healthy, set_identity, state_of
from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.job_status import JobFailedError
from llamarig.remote.shared.jobs import StartRecord, SwitchJob
from llamarig.remote.shared.record import Record

JOURNAL = "switch-journal"
"""Name of the file, in the directory of the start records."""
UNREADABLE = f"{JOURNAL}.unreadable"


@dataclass(frozen=True)
class UnitBefore(Record):
    """A unit that a switch may stop. ``served``: whether it ran; ``enabled``: whether it started at boot."""

    unit: str
    served: bool
    enabled: bool


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


def what_serves(job: SwitchJob) -> Journal:
    """Find out what serves now, for a switch.

    :raises JobFailedError: where systemd does not report which units are active
    """
    directory, file = Path(job.proof).parent, model_units.UNITS / job.unit
    units = [_unit_before(name) for name in dict.fromkeys((job.unit, *job.peers, *job.retired))]
    record = read_start_record(directory, job.unit)
    serves = units[0].served and file.exists() and is_healthy(state_of(job.unit)["MainPID"])
    text, unit_file = None, ""
    if record is not None and not serves:
        # A text that answered once is better than one that does not answer now.
        text, unit_file = record.text, record.unit_file
    elif file.exists():
        text, unit_file = file.read_text(), file_identity(file)
    if record is not None and not any(one.served for one in units):
        units[0] = UnitBefore(job.unit, True, units[0].enabled)
    digest = _record_digest(directory, job.unit)
    return Journal(job.unit, text, unit_file, digest, tuple(units), job.load_timeout_s, job.port)


def write_journal(directory: Path, journal: Journal) -> None:
    """Write the copy of the unit file and the journal, and wait until both are on the disk.

    :raises JobFailedError: when they cannot be written
    """
    try:
        if journal.text is not None:
            replace_file(copy_of(journal.unit), journal.text, mode=0o644)
            set_identity(copy_of(journal.unit), journal.unit_file)
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
    """Delete the copy of a switch that was killed before it had written its journal, so before it changed anything."""
    for copy in model_units.UNITS.glob(copy_of("*").name):
        with contextlib.suppress(OSError):
            copy.unlink()


def is_committed(directory: Path, journal: Journal) -> bool:
    """Whether the switch has recorded the start of the new server, its last step."""
    return _record_digest(directory, journal.unit) != journal.record


def delete_journal(directory: Path, journal: Journal) -> None:
    """Delete the journal, then the copy: the switch has ended."""
    for path in (directory / JOURNAL, copy_of(journal.unit)):
        with contextlib.suppress(OSError):
            path.unlink()


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
    with (directory / ".switch-lock").open("a") as lock:
        os.fchmod(lock.fileno(), 0o600)  # who may read a file may lock it
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
    try:
        return hashlib.sha256((directory / f"{unit}.json").read_bytes()).hexdigest()
    except OSError:
        return None


def _unit_before(unit: str) -> UnitBefore:
    state = state_of(unit)
    if not state["ActiveState"]:
        raise JobFailedError(f"systemd does not report whether {unit} serves (systemctl show); nothing was changed")
    return UnitBefore(unit, state["ActiveState"] in ("active", "activating"), state["UnitFileState"] == "enabled")
