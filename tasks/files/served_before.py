"""What served before a switch, kept on disk from before the first stop, so that it serves again whatever happens.

Two files a unit, gone once the switch has ended: the old text beside the unit file, which takes its place again by a
rename, for that needs no room on a full disk; and a note of which units served, which outlives a killed switch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from tasks.files import model_units
from tasks.files.job_status import JobFailedError, Progress
from tasks.files.model_units import is_healthy, state_of, systemctl, wait_until_healthy, write_whole

_RELOAD_S = 900
"""Seconds at least for what served before to load again."""


class Before:
    """What served before, so that it can serve again.

    Raises JobFailedError where systemd does not say what is active.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.unit: str = job["unit"]
        self.began = time.monotonic()
        timeout = job["load_timeout_s"]
        self._reload_s = max(_RELOAD_S, timeout) if isinstance(timeout, int) else _RELOAD_S
        self._proofs = Path(job["proof"]).parent
        self._file = model_units.UNITS / self.unit
        named = [self.unit, *job["peers"]]
        self._left = {name: note for name in named if (note := self._left_behind(name)) is not None}
        proof = read_proof(self._proofs, self.unit)
        # Nor did a unit serve that a broken-off switch started; what did, that switch wrote down.
        served = [name for name in named if name not in self._left and _is_active(name)]
        self.text: str | None = None
        if self.unit in self._left:
            self.text = self._left[self.unit]["text"]
        elif self.unit in served and self._file.exists() and is_healthy(state_of(self.unit)["MainPID"]):
            self.text = self._file.read_text()
        elif proof is not None:
            # One that was proved once is preferred to one that does not answer.
            self.text = proof["text"]
        elif self._file.exists():
            self.text = self._file.read_text()
        served = served or [name for note in self._left.values() for name in note["active"]]
        self.active: list[str] = served or ([self.unit] if proof else [])

    def keep(self) -> None:
        """Write down what serves, before anything of it is touched.

        :raises JobFailedError: when there is no room for it
        """
        try:
            if self.text is not None:
                write_whole(self._copy, self.text)
                self._copy.chmod(0o644)
            note = {"text": self.text, "active": self.active, "proof": self._proof_digest(self.unit)}
            write_whole(self._note(self.unit), json.dumps(note))
        except OSError as error:
            raise JobFailedError(
                f"what serves now cannot be written down, and would be lost ({error.strerror}: {error.filename}); "
                "nothing was changed"
            ) from None

    def forget(self, *, peers: bool = True) -> None:
        """The switch has ended: what serves now is what the next one comes back to.

        :param peers: also what broken-off switches of other units left; not so where this one has only put its own back
        """
        for path in (self._copy, *(self._note(name) for name in (self.unit, *(self._left if peers else ())))):
            with contextlib.suppress(OSError):
                path.unlink()

    def restore(self, progress: Progress, *, wait: bool = True) -> str:
        """The old text and the old models back; says what serves now. Goes on past whatever fails of it.

        :param wait: until they answer; not so where this program will soon be killed
        """
        progress.must_write = False  # a full disk may be why, and is no reason not to go on
        progress.step("restoring what served before")
        systemctl("stop", self.unit)
        trouble = self._put_back()
        wanted = [name for name in self.active if name != self.unit or (self.text is not None and not trouble)]
        if systemctl("daemon-reload"):
            # Something that serves is better than nothing, but it may be what systemd read before.
            trouble += f"systemd did not read {self.unit} again (systemctl daemon-reload fails); "
        systemctl("reset-failed", self.unit)
        started = [name for name in wanted if systemctl("start", name) == 0]
        down = [name for name in wanted if name not in started]
        if wait:
            down += [name for name in started if not wait_until_healthy(name, self._reload_s, progress)]
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

    def _put_back(self) -> str:
        """The unit file as it was; what went wrong with that, empty where nothing did."""
        try:
            if self.text is None:
                self._file.unlink(missing_ok=True)
            elif not self._file.exists() or self._file.read_text() != self.text:
                self._copy.replace(self._file)
        except OSError as error:
            return f"its old unit text could not be put back ({error.strerror}: {error.filename}); "
        return ""

    @property
    def _copy(self) -> Path:
        return model_units.UNITS / f"{self.unit}.llamarig-before"

    def _note(self, unit: str) -> Path:
        return self._proofs / f"{unit}.served-before"

    def _proof_digest(self, unit: str) -> str | None:
        try:
            return hashlib.sha256((self._proofs / f"{unit}.json").read_bytes()).hexdigest()
        except OSError:
            return None

    def _left_behind(self, unit: str) -> dict[str, Any] | None:
        """The note of a switch of that unit which was killed before its end, None where none was.

        One that was killed after its proof has written another proof, and has only left its note.
        """
        try:
            note = json.loads(self._note(unit).read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(note, dict) or not {"text", "active", "proof"} <= note.keys():
            return None
        return note if note["proof"] == self._proof_digest(unit) else None


def read_proof(proofs: Path, unit: str) -> dict[str, Any] | None:
    """The last proof of a unit, None where there is none.

    :param proofs: the directory they lie in
    """
    try:
        proof = json.loads((proofs / f"{unit}.json").read_text())
    except (OSError, ValueError):
        return None
    return proof if isinstance(proof, dict) and isinstance(proof.get("text"), str) else None


def _is_active(unit: str) -> bool:
    state = state_of(unit)["ActiveState"]
    if not state:
        raise JobFailedError(f"systemd does not say whether {unit} serves (systemctl show); nothing was changed")
    return state in ("active", "activating")
