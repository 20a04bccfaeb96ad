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

from llamarig.engine.item import Commands
from llamarig.engine.progress import progress_line
from llamarig.engine.refuse import report
from llamarig.engine.screen import say
from llamarig.engine.upload import upload
from llamarig.facts.jobs import Job, Jobs
from llamarig.remote.shared.jobs import JobStatus
from llamarig.remote.shared.record import Record
from llamarig.render import layout

SWITCH = "switch-"
"""Prefix of the job names of all switches."""

_POLL_S = 0.5
_MOST_UNNAMED = 20
"""Polls in a row whose output does not name a job, after which waiting for it ends: 10 s."""
_LOG_EVERY_S = 5.0

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


def job_text(job: Record) -> str:
    """The content of job.json. The same work always has the same text, so jobs are compared by it."""
    return json.dumps(job.to_json(), indent=1, sort_keys=True) + "\n"


def is_running(job: Job | None, requested: Record) -> bool:
    """Whether a job with exactly the requested work is running."""
    return job is not None and job.running and job.sha256 == hashlib.sha256(job_text(requested).encode()).hexdigest()


def none_runs(name: str) -> StringCommand:
    """A command that fails while a job of that name runs: another deploy may have started one since we looked.

    Waits 5 s for a job that has written its result and is ending.

    :param name: may end in `-*`, for all names with that prefix
    """
    message = f"another deploy has just started a {name.removesuffix('-*')} on the box: run deploy.py again"
    runs = f"systemctl is-active '{layout.job_unit(name)}*' | grep -qxE 'active|(de)?activating'"
    return StringCommand(
        f"n=0; while {runs}; do n=$((n+1)); test $n -le 20 || {{ echo '{message}' >&2; exit 1; }}; sleep 0.25; done"
    )


def start_job(
    name: str,
    program: str,
    job: Record,
    *,
    python: str = layout.PYTHON,
    properties: Sequence[str] = (),
    sandboxed: bool = True,
    secret: tuple[str, str] | None = None,
    stops_another: bool = True,
) -> Commands:
    """Start ``llamarig.remote.<program>`` with ``job`` as its work.

    :param stops_another: whether a running job of that name is stopped first; if False, this fails while one runs
    :param secret: name and value of a credential that only this job may read. It is sent on a command's stdin and kept
        in RAM only; an upload with sudo would be readable by all in /tmp for a moment
    """
    directory = f"{layout.JOBS}/{name}"
    # A unique name for each run: systemd refuses a second unit of one name, and may still know that of the last run.
    unit = f"{layout.job_unit(name)}{secrets.token_hex(4)}.service"
    if not stops_another:
        yield none_runs(name)
    stop = f"systemctl stop '{layout.job_unit(name)}*' 2>/dev/null; " if stops_another else ""
    yield StringCommand(f"{stop}mkdir -p {directory} && chmod 700 {directory} && rm -f {directory}/status.json")
    yield upload(job_text(job), f"{directory}/job.json", mode="600")
    wanted = [*(_SANDBOX if sandboxed else ()), *properties, f"ReadWritePaths={directory}"]
    if not sandboxed:
        wanted = [f"WorkingDirectory={layout.PROGRAMS}", "Environment=HOME=/root LC_ALL=C.UTF-8", *properties]
    if secret is not None:
        credential = f"{layout.SECRETS}/{name}.{secret[0]}"
        yield StringCommand(
            f"mkdir -p -m 700 {layout.SECRETS} && rm -f {credential} && umask 077 && cat >{credential}",
            _stdin=secret[1],
        )
        wanted.append(f"LoadCredential={secret[0]}:{credential}")
    # Type exec: systemd-run returns once the program runs. A failed start is an error here, and the credential has been
    # read by then.
    words: list[str | QuoteString] = ["systemd-run", "--quiet", "--collect", "--service-type=exec", f"--unit={unit}"]
    words += [QuoteString(f"--property={value}") for value in wanted]
    words += [python, "-B", "-m", f"llamarig.remote.{program}", directory]
    if secret is not None:
        words += [";", "started=$?;", "rm", "-f", f"{credential};", "exit", "$started"]
    yield StringCommand(*words)


def await_jobs(labels: dict[str, str], poll_s: float = _POLL_S) -> FunctionCommand:
    """Watch jobs until each has ended; fail the host with the job's message if one fails, or if the box knows none.

    :param labels: job name -> its name in messages
    :param poll_s: seconds between two looks at the jobs
    """
    return FunctionCommand(_watch, [labels, poll_s], {})


def _watch(state: State, host: Host, labels: dict[str, str], poll_s: float) -> bool:
    logged: dict[str, tuple[float, str]] = {}
    waiting, unnamed = dict(labels), dict.fromkeys(labels, 0)
    while waiting:
        jobs = host.get_fact(Jobs, names=sorted(waiting))
        for name in sorted(waiting):
            unnamed[name] = 0 if name in jobs else unnamed[name] + 1
            if 0 < unnamed[name] < _MOST_UNNAMED:
                continue
            ended = _ended(jobs[name], name) if name in jobs else _unknown(name)
            if ended is None:
                _log_progress(host, labels[name], jobs[name].status, logged, name)
                continue
            message, lines = ended
            if lines is None:
                say(host, f"{labels[name]}: {message}")
                del waiting[name]
                continue
            report(host, f"{labels[name]}: {message}", lines)
            for other in sorted(waiting.keys() - {name}):
                say(host, f"{labels[other]} continues on the box; the next deploy waits for it")
            return False
        if waiting:
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
    """Log a line when the step changes, and every few seconds while only its numbers change."""
    line = progress_line(status)
    last_time, last_line = logged.get(name, (0.0, ""))
    step_changed = line.split(":")[0] != last_line.split(":")[0]
    if line and line != last_line and (step_changed or time.monotonic() - last_time >= _LOG_EVERY_S):
        say(host, f"{label}: {line}")
        logged[name] = (time.monotonic(), line)
