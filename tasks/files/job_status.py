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


class OtherOwnsStatusError(Exception):
    """Another run of this very job is under way, and the status file is its."""


class StoppedError(BaseException):
    """SIGTERM came. No Exception, so that nothing on the way takes it for a failure of its own and goes on."""


def own_unit() -> str:
    """The systemd unit this job runs as, where the journal keeps all it printed."""
    return f"'llamarig-job-{Path(sys.argv[1]).name}_*'"


class Progress:
    """Writes the status file, at most twice a second while only the numbers change."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "status.json"
        self._status: dict[str, Any] = {"state": "running", "step": "starting", "started": time.time()}
        self._written = 0.0
        self.must_write = True
        """Whether the job fails where its status cannot be written; one that mends something goes on."""

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
                if self.must_write:
                    raise
                return
            # On a full disk there is no room for another file; the one that is there has its block already, but for
            # filesystems that copy on write.
            try:
                part.unlink(missing_ok=True)
                with self._file.open("r+") as file:
                    file.write(text)
                    file.truncate()
            except OSError:
                if self.must_write:
                    raise


def run_job(work: Callable[[dict[str, Any], Progress], str], *, unwinds: bool = False) -> NoReturn:
    """Run ``work(job, progress)`` for the job directory named on the command line; its text is the closing line.

    :param unwinds: SIGTERM, the first one, is raised in it as StoppedError, because it has something to put back
    """
    directory = Path(sys.argv[1])
    progress = Progress(directory)

    def stopped(signum: int, frame: FrameType | None) -> None:
        if unwinds:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise StoppedError("stopped before it was finished")
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
    except OtherOwnsStatusError as other:
        print(other, file=sys.stderr)
        sys.exit(1)
    except StoppedError as stop:
        progress.end("stopped", str(stop))
        print(stop, file=sys.stderr)
        sys.exit(0)
    except OSError as error:
        progress.end("failed", f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
        raise
    except BaseException as error:
        progress.end("failed", f"{type(error).__name__}: {error}")
        raise
    progress.end("done", message)
    print(message)
    sys.exit(0)
