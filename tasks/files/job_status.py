"""How a long job on the box tells what it is doing: one small JSON file, replaced whole at every step.

Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn


class JobFailedError(Exception):
    """The job cannot go on: one message for the owner, and the lines that show why."""

    def __init__(self, message: str, lines: list[str] | None = None) -> None:
        super().__init__(message)
        self.lines = lines or []


def own_unit() -> str:
    """The systemd unit this job runs as, where the journal keeps all it printed."""
    return f"'llamarig-job-{Path(sys.argv[1]).name}_*'"


class Progress:
    """Writes the status file, at most twice a second while only the numbers change."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "status.json"
        self._status: dict[str, Any] = {"state": "running", "step": "starting", "started": time.time()}
        self._written = 0.0

    def step(self, step: str, *, done: int = 0, total: int = 0, unit: str = "") -> None:
        """Name the work at hand. ``done`` and ``total`` are in ``unit``: objects, bytes, seconds or nothing."""
        changed = step != self._status.get("step")
        if changed:
            self._status["step_started"] = time.time()
            self._status["done_at_start"] = done
        self._status.update(step=step, done=done, total=total, unit=unit)
        if changed or done == total or time.monotonic() - self._written > 0.5:
            self.write()

    def end(self, state: str, message: str = "", lines: list[str] | None = None) -> None:
        """``state`` is done, failed or stopped."""
        self._status.update(state=state, message=message, lines=(lines or [])[-30:], ended=time.time())
        self.write()

    def write(self) -> None:
        """Replace the file in one step, so that a reader never sees half of it."""
        self._written = time.monotonic()
        self._status["now"] = time.time()
        part, text = self._file.with_suffix(".part"), json.dumps(self._status)
        try:
            part.write_text(text)
            part.replace(self._file)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self._file.exists():
                raise
            # On a full disk there is no room for another file; the one that is there has its block already.
            part.unlink(missing_ok=True)
            with self._file.open("r+") as file:
                file.write(text)
                file.truncate()


def run_job(work: Callable[[dict[str, Any], Progress], str]) -> NoReturn:
    """Run ``work(job, progress)`` for the job directory named on the command line; its text is the closing line."""
    directory = Path(sys.argv[1])
    progress = Progress(directory)

    def stopped(signum: int, frame: FrameType | None) -> None:
        progress.end("stopped", "stopped before it was finished")
        os._exit(0)

    signal.signal(signal.SIGTERM, stopped)
    progress.write()
    try:
        message = work(json.loads((directory / "job.json").read_text()), progress)
    except JobFailedError as failure:
        progress.end("failed", str(failure), failure.lines)
        print(f"failed: {failure}", *failure.lines, sep="\n", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        progress.end("failed", f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
        raise
    except BaseException as error:
        progress.end("failed", f"{type(error).__name__}: {error}")
        raise
    progress.end("done", message)
    print(message)
    sys.exit(0)
