"""Remembers on disk what served before a switch, and restores it after a failure, a signal or a power cut.

Each switch writes two files before it stops anything and deletes them at its end: a copy of the old unit file beside
the unit file, which a rename restores even on a full disk; and a note of the units that served, which is still there
after the switch itself was killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from llamarig.remote.serve import model_units
from llamarig.remote.serve.model_units import is_healthy, state_of, systemctl, wait_until_healthy
from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.jobs import StartRecord, SwitchJob
from llamarig.remote.shared.record import Record

_LEAST_LOAD_TIMEOUT_S = 900
"""Seconds to wait at least for the restored models to load."""


@dataclass(frozen=True)
class ServedBefore(Record):
    """The note of a switch. ``text``: unit file to restore; ``active``: units that served.

    ``proof``: sha256 of the unit's start record when the switch began, None where there was none.
    """

    text: Optional[str]
    active: tuple[str, ...]
    proof: Optional[str]


class PreviousServer:
    """What served before a switch.

    :raises JobFailedError: where systemd does not report which units are active
    """

    def __init__(self, job: SwitchJob) -> None:
        self.unit = job.unit
        self.began = time.monotonic()
        self._load_timeout_s = max(_LEAST_LOAD_TIMEOUT_S, job.load_timeout_s)
        self._records = Path(job.proof).parent
        self._file = model_units.UNITS / self.unit
        named = [self.unit, *job.peers]
        self._left = {name: note for name in named if (note := self._note_left_behind(name)) is not None}
        record = read_start_record(self._records, self.unit)
        # A unit that an interrupted switch started did not serve: its note says what served before it.
        served = [name for name in named if name not in self._left and _is_active(name)]
        self.text: str | None = None
        if self.unit in self._left:
            self.text = self._left[self.unit].text
        elif self.unit in served and self._file.exists() and is_healthy(state_of(self.unit)["MainPID"]):
            self.text = self._file.read_text()
        elif record is not None:
            # A text that answered once is better than one that does not answer now.
            self.text = record.text
        elif self._file.exists():
            self.text = self._file.read_text()
        served = served or [name for note in self._left.values() for name in note.active]
        self.active: list[str] = served or ([self.unit] if record else [])

    def save(self) -> None:
        """Write the copy and the note, before anything is changed.

        :raises JobFailedError: when they cannot be written
        """
        try:
            if self.text is not None:
                replace_file(self._copy, self.text, mode=0o644)
            note = ServedBefore(self.text, tuple(self.active), self._record_digest(self.unit))
            replace_file(self._note(self.unit), json.dumps(note.to_json()))
        except OSError as error:
            raise JobFailedError(
                f"what serves now cannot be saved, so a failure could not be undone ({error.strerror}: "
                f"{error.filename}); nothing was changed"
            ) from None

    def forget(self, *, peers: bool = True) -> None:
        """Delete the copy and the note: the switch has ended.

        :param peers: also delete the notes of interrupted switches of the peers
        """
        for path in (self._copy, *(self._note(name) for name in (self.unit, *(self._left if peers else ())))):
            with contextlib.suppress(OSError):
                path.unlink()

    def restore(self, progress: Progress, *, wait: bool = True) -> str:
        """Restore the old unit file, start what served, and describe the result. Continues after any failure.

        :param wait: wait until the models answer; False where this program is about to be killed
        """
        progress.must_write = False  # a full disk may be the reason for the failure
        progress.step("restoring what served before")
        systemctl("stop", self.unit)
        trouble = self._restore_file()
        wanted = [name for name in self.active if name != self.unit or (self.text is not None and not trouble)]
        if systemctl("daemon-reload"):
            # It starts all the same: systemd may run the text it read before, which is better than no server.
            trouble += f"systemd did not reload {self.unit} (systemctl daemon-reload failed); "
        systemctl("reset-failed", self.unit)
        started = [name for name in wanted if systemctl("start", name) == 0]
        down = [name for name in wanted if name not in started]
        if wait:
            down += [name for name in started if not wait_until_healthy(name, self._load_timeout_s, progress)]
        if down:
            names = ", ".join(down)
            trouble += f"and {names}, which served before, does not start either: see `journalctl -u {down[0]}`"
        if trouble:
            return trouble
        self.forget(peers=False)
        if not started:
            return "nothing served before, nothing serves now"
        if not wait:
            return f"{', '.join(started)}, which served before, was started again"
        return f"{', '.join(started)} serves again as before; it was away for {time.monotonic() - self.began:.0f} s"

    def _restore_file(self) -> str:
        """Restore the unit file; return what went wrong, or an empty text."""
        try:
            if self.text is None:
                self._file.unlink(missing_ok=True)
            elif not self._file.exists() or self._file.read_text() != self.text:
                self._copy.replace(self._file)
        except OSError as error:
            return f"its old unit file could not be restored ({error.strerror}: {error.filename}); "
        return ""

    @property
    def _copy(self) -> Path:
        return model_units.UNITS / f"{self.unit}.llamarig-before"

    def _note(self, unit: str) -> Path:
        return self._records / f"{unit}.served-before"

    def _record_digest(self, unit: str) -> str | None:
        try:
            return hashlib.sha256((self._records / f"{unit}.json").read_bytes()).hexdigest()
        except OSError:
            return None

    def _note_left_behind(self, unit: str) -> ServedBefore | None:
        """Read the note of a switch of that unit that was killed before its end; None where there is none.

        A switch that was killed after it recorded its start has succeeded: the record has another digest by then.
        """
        try:
            note = ServedBefore.from_json(json.loads(self._note(unit).read_text()))
        except (OSError, ValueError):  # RecordError is a ValueError
            return None
        return note if note.proof == self._record_digest(unit) else None


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


def _is_active(unit: str) -> bool:
    state = state_of(unit)["ActiveState"]
    if not state:
        raise JobFailedError(f"systemd does not report whether {unit} serves (systemctl show); nothing was changed")
    return state in ("active", "activating")
