"""Admits the jobs of a box: those of one owner at a time, and never two that use the same thing.

An owner is a user on a control machine, by name and by an identity that was drawn there. The builds and downloads of
one owner run side by side. A job is refused while another owner's runs, while another one of its name runs with other
work, as a switch or a planning while one of these runs, and as or beside a deletion of what is not used. The same work
is not refused and not started twice: both runs wait for the first.

Each job holds a lock on a file of its directory for as long as its process lives, with `owner.json` beside it. Jobs are
admitted one after another, under a lock of their own.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.record import Record

GATE = ".admission"
"""File in the directory of all jobs that is locked while one of them is admitted."""
LOCK = "lock"
OWNER = "owner.json"
_STOP_WAIT_S = 300.0
"""Seconds for jobs to end that are stopped: a switch restores what served."""
TUNING = ".tune"
"""End of the name of a switch that tries settings and returns to what served. No model's name has a dot."""
_KINDS = {
    "switch": "the switch of model",
    "build": "a build of llama.cpp",
    "receive": "the installation of a release from another box, llama.cpp",
    "pack": "the packing of a release, llama.cpp",
    "simulate": "the build of simulated GPUs for llama.cpp",
    "plan": "the planning of models",
    "prune": "the deletion of leftovers",
    "import": "the import of model files that lie on the box",
}
_ALONE = ("switch-", "plan")
"""Beginnings of the names of jobs of which one runs at a time: each changes or counts the memory of the servers."""
_BESIDE_NONE = "prune"
"""Name of the job beside which none runs: each of the others may begin to use what this one deletes."""


@dataclass(frozen=True)
class JobRequest(Record):
    """A job to start.

    ``job``: text of its job.json; ``owner``: user@machine (identity); ``takeover``: stop what is in its way.
    """

    job: str
    owner: str
    takeover: bool


@dataclass(frozen=True)
class JobOwner(Record):
    """Whose job runs. ``since``: UTC, for people; ``run``: which of its starts this is."""

    owner: str
    since: str
    run: str


class NotAdmittedError(Exception):
    """The job may not start; the message says why. It is empty where the same job runs already."""


def admit(directory: Path, run: str) -> None:
    """Admit the job that `request-RUN.json` asks for, and write its job.json. Its lock is held until the process ends.

    :raises NotAdmittedError: while another job is in its way
    """
    path = directory / f"request-{run}.json"
    request = JobRequest.from_json(json.loads(path.read_text()))
    gate = os.open(directory.parent / GATE, os.O_RDONLY)
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        others = jobs_in_the_way(directory, request)
        if directory.name in others and _text(directory / "job.json") == request.job:
            raise NotAdmittedError
        if others and request.takeover:
            _stop([directory.parent / name for name in others])
            others = _left_after(directory, request)
        if others:
            raise NotAdmittedError("; ".join(refusal(directory.parent / name) for name in others))
        lock = os.open(directory / LOCK, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (directory / "status.json").unlink(missing_ok=True)
        replace_file(directory / "job.json", request.job)
        since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        replace_file(directory / OWNER, json.dumps(JobOwner(request.owner, since, run).to_json()))
        path.unlink()
    finally:
        os.close(gate)


def jobs_in_the_way(directory: Path, request: JobRequest) -> list[str]:
    """Names of the running jobs that do not allow this one."""
    return [
        name
        for name in running_jobs(directory.parent)
        if name == directory.name
        or _BESIDE_NONE in (name, directory.name)
        or (name.startswith(_ALONE) and directory.name.startswith(_ALONE))
        or owner_of(directory.parent / name).owner != request.owner
    ]


def running_jobs(jobs: Path) -> list[str]:
    """Names of the jobs whose programs run."""
    return sorted(lock.parent.name for lock in jobs.glob(f"*/{LOCK}") if _is_held(lock))


def owner_of(directory: Path) -> JobOwner:
    """Return whose the job is, or was; empty values where that cannot be read."""
    try:
        value = json.loads((directory / OWNER).read_text())
    except (OSError, ValueError):
        value = {}
    return JobOwner.from_stored(value)


def job_words(name: str) -> str:
    """A job in words, by its name."""
    kind, _, of = name.partition("-")
    if name.endswith(TUNING):
        return f"the tuning of model {of[: -len(TUNING)]}"
    return f"{_KINDS[kind]} {of}".strip() if kind in _KINDS else "a download of models"


def refusal(directory: Path) -> str:
    """Say whose job runs, since when, and what to do."""
    what, kind = job_words(directory.name), directory.name.partition("-")[0]
    owner = owner_of(directory)
    whose, since = owner.owner or "another run", owner.since or "an unknown time"
    consequence = "what served before then serves again" if kind == "switch" else "what it has done so far is kept"
    return (
        f"{what} by {whose} is running on this box since {since}: wait for its end and run this again; or stop it by "
        f"running this with --data takeover=1 ({consequence}), or on the box: systemctl stop "
        f"'llamarig-job-{directory.name}_*'"
    )


def tell_systemd() -> None:
    """Report that the job is admitted, to the command that started it (Type=notify)."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", re.sub("^@", "\0", address))


def _stop(directories: list[Path]) -> None:
    for directory in directories:
        # Its start by name: a pattern would match this job's own unit, too. A switch restores what served meanwhile.
        unit = f"llamarig-job-{directory.name}_{owner_of(directory).run}.service"
        with suppress(OSError):  # what still runs after the wait is refused
            subprocess.run(["systemctl", "stop", unit], capture_output=True)


def _left_after(directory: Path, request: JobRequest) -> list[str]:
    """Return the jobs that still run when the wait for their end is over."""
    deadline = time.monotonic() + _STOP_WAIT_S
    while (left := jobs_in_the_way(directory, request)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _is_held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
