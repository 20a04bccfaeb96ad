"""Runs a job on the box and reports its progress in a small JSON file, which is replaced atomically at every step."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

from llamarig.remote.shared.jobs import JobStatus
from llamarig.remote.shared.printable import printable
from llamarig.remote.shared.record import Record, RecordError

J = TypeVar("J", bound=Record)


class JobFailedError(Exception):
    """The job cannot continue: a message for the user, and the lines of output that explain it."""

    def __init__(self, message: str, lines: list[str] | None = None) -> None:
        super().__init__(message)
        self.lines = lines or []


class OtherOwnsStatusError(Exception):
    """Another run of the same job is under way and owns the status file."""


class StoppedError(BaseException):
    """SIGTERM was received. Not an Exception, so that no handler of ordinary failures catches it."""


def own_unit() -> str:
    """Return the pattern of this job's systemd units, for journalctl."""
    return f"'llamarig-job-{Path(sys.argv[1]).name}_*'"


class Progress:
    """Writes the status file, at most twice a second while only the numbers change."""

    def __init__(self, directory: Path, status: JobStatus | None = None) -> None:
        """``status``: to continue from, of a program that was killed."""
        self._file = directory / "status.json"
        self._status = status or JobStatus(state="running", step="starting", started=time.time())
        self._written = 0.0
        self.must_write = True
        """Whether a status file that cannot be written fails the job. False while something is being restored."""

    def step(self, step: str, *, done: int = 0, total: int = 0, unit: str = "") -> None:
        """Set the current step. ``done`` and ``total`` are in ``unit``: objects, bytes, MiB or nothing."""
        changed = step != self._status.step
        if changed:
            self._status = replace(self._status, step_started=time.time(), done_at_start=done)
        self._status = replace(self._status, step=step, done=done, total=total, unit=unit)
        if changed or done == total or time.monotonic() - self._written > 0.5:
            self.write()

    def end(self, state: str, message: str = "", lines: list[str] | None = None) -> None:
        """Record the result. ``state``: done, failed or stopped; only the last 30 lines are kept."""
        shown = tuple(map(printable, (lines or ())[-30:]))
        self._status = replace(self._status, state=state, message=printable(message), lines=shown, ended=time.time())
        self.write()

    def write(self) -> None:
        """Replace the file atomically, so that a reader never sees a part of it."""
        self._written = time.monotonic()
        self._status = replace(self._status, now=time.time())
        part, text = self._file.with_suffix(".part"), json.dumps(self._status.to_json())
        try:
            part.write_text(text)
            part.replace(self._file)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self._file.exists():
                if self.must_write:
                    raise
                return
            # A full disk has no room for a second file, but the existing one has its block already, except on
            # copy-on-write filesystems.
            try:
                part.unlink(missing_ok=True)
                with self._file.open("r+") as file:
                    file.write(text)
                    file.truncate()
            except OSError:
                if self.must_write:
                    raise


def run_job(kind: type[J], work: Callable[[J, Progress], str], *, unwinds: bool = False) -> NoReturn:
    """Run ``work(job, progress)`` for the job directory named on the command line, then exit.

    The text that ``work`` returns becomes the message of the final status.

    :param kind: record type of job.json
    :param unwinds: raise StoppedError in ``work`` at the first SIGTERM, for work that has to restore something
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
        message = work(_read_job(kind, directory / "job.json"), progress)
    except JobFailedError as failure:
        progress.end("failed", str(failure), failure.lines)
        print(*map(printable, (f"failed: {failure}", *failure.lines)), sep="\n", file=sys.stderr)
        sys.exit(1)
    except OtherOwnsStatusError as other:
        print(printable(str(other)), file=sys.stderr)
        sys.exit(1)
    except StoppedError as stop:
        progress.end("stopped", str(stop))
        print(printable(str(stop)), file=sys.stderr)
        sys.exit(0)
    except OSError as error:
        progress.end("failed", f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
        raise
    except BaseException as error:
        progress.end("failed", f"{type(error).__name__}: {error}")
        raise
    progress.end("done", message)
    print(printable(message))
    sys.exit(0)


def _read_job(kind: type[J], path: Path) -> J:
    try:
        return kind.from_json(json.loads(path.read_text()))
    except (RecordError, ValueError) as error:
        raise JobFailedError(f"{path} is not a job for this program ({error}): run deploy.py again") from None
