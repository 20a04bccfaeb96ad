"""Long work on the box, as transient systemd units that survive a broken connection and are found by the next run."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Sequence

import gevent
from pyinfra.api.command import FunctionCommand, QuoteString, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from llamarig.engine.control_identity import owner
from llamarig.engine.item import Commands
from llamarig.engine.progress import progress_line
from llamarig.engine.refuse import false_if_unanswered, report
from llamarig.engine.run import HostRun, ask, of_host, run
from llamarig.engine.screen import say
from llamarig.engine.upload import upload
from llamarig.facts.jobs import Job, Jobs
from llamarig.remote.shared.admission import GATE, LOCK, JobRequest
from llamarig.remote.shared.jobs import JobStatus
from llamarig.remote.shared.record import Record
from llamarig.render import layout

SWITCH = "switch-"
"""Prefix of the job names of all switches."""

_POLL_S = 0.5
_MOST_UNNAMED = 20
"""Polls in a row whose output does not name a job, after which waiting for it ends: 10 s."""
_LOG_EVERY_S = 10.0

# Sandbox of every job. Each job adds the paths that it may write.
_SANDBOX = (
    "ProtectHome=yes",
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "NoNewPrivileges=yes",
    # The box's own proxy settings.
    "EnvironmentFile=-/etc/environment",
    # The box's certificate store, with the owner's additions, in place of the one that Python packages bring.
    f"Environment=SSL_CERT_FILE={layout.CA_BUNDLE} REQUESTS_CA_BUNDLE={layout.CA_BUNDLE} PIP_CERT={layout.CA_BUNDLE}",
    "Environment=HOME=/tmp LC_ALL=C.UTF-8",
    f"WorkingDirectory={layout.PROGRAMS}",
    "Nice=10",
    "IOSchedulingClass=best-effort",
    "IOSchedulingPriority=7",
    # A job that is killed continues where it was when it is started again.
    "TimeoutStopSec=5",
)

# What the job answered where it was not admitted, in place of systemd's complaint: nothing where the same job runs.
_ANSWER = (
    "2>{directory}/error-{run}; started=$?; "
    "if test -e {directory}/answer-{run}; then cat {directory}/answer-{run} >&2; ! test -s {directory}/answer-{run}; "
    "started=$?; else cat {directory}/error-{run} >&2; fi; "
    "rm -f {directory}/*-{run} {directory}/*-{run}.json {credential}; exit $started"
)


def job_text(job: Record) -> str:
    """The content of job.json. The same work always has the same text, so jobs are compared by it."""
    return json.dumps(job.to_json(), indent=1, sort_keys=True) + "\n"


def is_running(job: Job | None, requested: Record) -> bool:
    """Whether a job with exactly the requested work is running."""
    return job is not None and job.running and job.sha256 == hashlib.sha256(job_text(requested).encode()).hexdigest()


def start_job(
    name: str,
    program: str,
    job: Record,
    *,
    takeover: bool,
    python: str = layout.PYTHON,
    properties: Sequence[str] = (),
    sandboxed: bool = True,
    secret: tuple[str, str] | None = None,
) -> Commands:
    """Start ``llamarig.remote.<program>`` with ``job`` as its work, or leave that to the same job that runs already.

    The box decides whether it may start (remote/shared/admission.py); the command fails with its reason.

    :param takeover: whether jobs that are in its way are stopped, also those of other people
    :param properties: of the unit
    :param secret: name and value of a credential that only this job may read. It is sent on a command's stdin and kept
        in RAM only; an upload with sudo would be readable by all in /tmp for a moment
    """
    directory, run = f"{layout.JOBS}/{name}", secrets.token_hex(4)
    request = JobRequest(job=job_text(job), owner=owner(), takeover=takeover)
    # A program without the rights to make them locks these files.
    locks = f"{layout.JOBS}/{GATE} {directory}/{LOCK}"
    # Root's alone: who may read a file may lock it.
    yield StringCommand(f"mkdir -p {directory} && chmod 700 {directory} && umask 077 && touch {locks}")
    yield upload(json.dumps(request.to_json()), f"{directory}/request-{run}.json", mode="600")
    wanted = [*(_SANDBOX if sandboxed else ()), *properties, f"ReadWritePaths={directory}"]
    if not sandboxed:
        wanted = [f"WorkingDirectory={layout.PROGRAMS}", "Environment=HOME=/root LC_ALL=C.UTF-8", *properties]
    credential = ""
    if secret is not None:
        credential = f"{layout.SECRETS}/{name}.{run}.{secret[0]}"
        yield StringCommand(f"mkdir -p -m 700 {layout.SECRETS} && umask 077 && cat >{credential}", _stdin=secret[1])
        wanted.append(f"LoadCredential={secret[0]}:{credential}")
    # A unique name for each run: systemd refuses a second unit of one name, and may still know that of the last run.
    unit = f"{layout.job_unit(name)}{run}.service"
    # Type notify: systemd-run returns once the job is admitted, or fails. The credential has been read by then.
    words: list[str | QuoteString] = ["systemd-run", "--quiet", "--collect", "--service-type=notify", f"--unit={unit}"]
    # Where it takes over, it waits for jobs that restore what served.
    wanted.append("TimeoutStartSec=infinity")
    words += [QuoteString(f"--property={value}") for value in wanted]
    words += [python, "-B", "-m", f"llamarig.remote.{program}", directory, run]
    yield StringCommand(*words, _ANSWER.format(directory=directory, run=run, credential=credential))


def await_jobs(labels: dict[str, str], poll_s: float = _POLL_S) -> FunctionCommand:
    """Watch jobs until each has ended; fail the host with the job's message if one fails, or if the box knows none.

    :param labels: job name -> its name in messages
    :param poll_s: seconds between two looks at the jobs
    """
    return FunctionCommand(_watch, [labels, poll_s], {})


@false_if_unanswered
def _watch(state: State, host: Host, labels: dict[str, str], poll_s: float) -> bool:
    known = of_host(host)
    known.awaited = dict(labels)
    try:
        return _watched(host, labels, poll_s, known)
    finally:
        known.awaited = {}
        run().live_line.of_hosts.pop(host.name, None)


def _watched(host: Host, labels: dict[str, str], poll_s: float, known: HostRun) -> bool:
    logged: dict[str, tuple[float, str]] = {}
    waiting, unnamed = dict(labels), dict.fromkeys(labels, 0)
    while waiting:
        jobs = ask(Jobs, names=sorted(waiting))
        for name in sorted(waiting):
            unnamed[name] = 0 if name in jobs else unnamed[name] + 1
            if 0 < unnamed[name] < _MOST_UNNAMED:
                continue
            ended = _ended(jobs[name], name) if name in jobs else _unknown(name)
            if ended is None:
                known.progress[name] = f"{labels[name]}: {progress_line(jobs[name].status)}"
                _log_progress(host, labels[name], jobs[name].status, logged, name)
                continue
            message, lines = ended
            known.ended[name] = message
            known.progress.pop(name, None)
            if lines is None:
                say(host, f"{labels[name]}: {message}")
                del waiting[name]
                continue
            report(host, f"{labels[name]}: {message}", lines)
            for other in sorted(waiting.keys() - {name}):
                say(host, f"{labels[other]} continues on the box; the next deploy waits for it")
            return False
        if waiting:
            run().live_line.of_hosts[host.name] = ", ".join(known.progress[name] for name in sorted(known.progress))
            gevent.sleep(poll_s)
    return True


def _ended(job: Job, name: str) -> tuple[str, list[str] | None] | None:
    """None while a job runs; then its message, and the lines that explain a failure (None after a success)."""
    status = job.status
    if status.state == "done":
        return status.message or "done", None
    if status.state in ("failed", "stopped"):
        return status.message or status.state, list(status.lines)
    if job.running:
        return None
    # It ended without writing a result: killed, out of memory, or the box went down.
    last = [f"its last step: {status.step or 'unknown'}"]
    if name.startswith(SWITCH):
        return "was interrupted, and the previous server may be stopped; run deploy.py again now", last
    return "was interrupted; run deploy.py again, it continues where it was", last


def _unknown(name: str) -> tuple[str, list[str]]:
    """The message for a job that the box has not named in ``_MOST_UNNAMED`` polls; it may run all the same."""
    unit = layout.job_unit(name)
    message = (
        f"this box has reported nothing about the job {_MOST_UNNAMED} times in a row, so the wait has ended: "
        f"see `systemctl status '{unit}*'` and {layout.JOBS}/{name} there, then run deploy.py again"
    )
    return message, []


def _log_progress(host: Host, label: str, status: JobStatus, logged: dict[str, tuple[float, str]], name: str) -> None:
    """Log a line when the step changes, and every few seconds while only its numbers change; not beside a live line."""
    if run().live_line.is_drawn:
        return
    line = progress_line(status)
    last_time, last_line = logged.get(name, (0.0, ""))
    step_changed = line.split(":")[0] != last_line.split(":")[0]
    if line and line != last_line and (step_changed or time.monotonic() - last_time >= _LOG_EVERY_S):
        say(host, f"{label}: {line}")
        logged[name] = (time.monotonic(), line)
