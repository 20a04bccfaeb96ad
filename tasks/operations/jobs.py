"""Long work on the box: a transient systemd unit, watched from here, found again after a broken connection."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

import gevent
from pyinfra.api.command import FileUploadCommand, FunctionCommand, QuoteString, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from tasks.facts.jobs import Job, Jobs
from tasks.operations import Commands
from tasks.operations.refuse import report
from tasks.planning import layout
from tasks.planning.progress import progress_line
from tasks.planning.switch_under_way import SWITCH

_POLL_S = 0.5
_SAY_EVERY_S = 5.0

# What a job may not do, whatever it runs. The paths it may write are given by each job.
_SANDBOX = (
    "ProtectHome=yes",
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "NoNewPrivileges=yes",
    # The box's own proxy settings; a deploy brings none along.
    "EnvironmentFile=-/etc/environment",
    # The box's certificate store, with what the owner added; Python packages bring their own otherwise.
    f"Environment=SSL_CERT_FILE={layout.CA_BUNDLE} REQUESTS_CA_BUNDLE={layout.CA_BUNDLE} PIP_CERT={layout.CA_BUNDLE}",
    "Environment=HOME=/tmp LC_ALL=C.UTF-8",
    f"WorkingDirectory={layout.PROGRAMS}",
    "Nice=10",
    "IOSchedulingClass=best-effort",
    "IOSchedulingPriority=7",
    # Nothing is lost by a kill.
    "TimeoutStopSec=5",
)


def job_text(job: dict[str, Any]) -> str:
    """The text a job is compared by: the same work is always the same text."""
    return json.dumps(job, indent=1, sort_keys=True) + "\n"


def is_running(job: Job | None, asked: dict[str, Any]) -> bool:
    """Whether exactly this work is already going on."""
    return job is not None and job.running and job.asked == hashlib.sha256(job_text(asked).encode()).hexdigest()


def none_runs(name: str) -> StringCommand:
    """Fails while a job of that name runs: after it was looked for, for the deploy that was quicker since then.

    One that has written its result may still be ending: it is given 5 s.

    :param name: may end in `-*`, for all that begin so
    """
    said = f"another {name.removesuffix('-*')} has just begun on the box, by another deploy: run deploy.py again"
    runs = f"systemctl is-active '{layout.job_unit(name)}*' | grep -qxE 'active|(de)?activating'"
    return StringCommand(
        f"n=0; while {runs}; do n=$((n+1)); test $n -le 20 || {{ echo '{said}' >&2; exit 1; }}; sleep 0.25; done"
    )


def start_job(
    name: str,
    program: str,
    job: dict[str, Any],
    *,
    python: str = layout.PYTHON,
    properties: Sequence[str] = (),
    sandboxed: bool = True,
    secret: tuple[str, str] | None = None,
    stops_another: bool = True,
) -> Commands:
    """Start ``tasks/files/<program>.py`` with ``job`` as its work. Another run of that name is stopped first.

    :param stops_another: False where that may be somebody else's work: then it is let alone, and this fails
    :param secret: name and value of a credential only this job may read; it travels on a command's stdin (an upload for
        sudo would lie in /tmp for a moment, readable by all) and is never on a disk
    """
    directory = f"{layout.JOBS}/{name}"
    # A name of its own each time: systemd may still know the last run's unit, and refuses a second one of its name.
    unit = f"{layout.job_unit(name)}{secrets.token_hex(4)}.service"
    if not stops_another:
        yield none_runs(name)
    stop = f"systemctl stop '{layout.job_unit(name)}*' 2>/dev/null; " if stops_another else ""
    yield StringCommand(f"{stop}mkdir -p {directory} && chmod 700 {directory} && rm -f {directory}/status.json")
    yield FileUploadCommand(io.StringIO(job_text(job)), f"{directory}/job.json")
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
    # exec: it returns when the program runs, so that one that cannot be started is an error here, and its credential is
    # with it by then.
    words: list[str | QuoteString] = ["systemd-run", "--quiet", "--collect", "--service-type=exec", f"--unit={unit}"]
    words += [QuoteString(f"--property={value}") for value in wanted]
    words += [python, "-B", "-m", f"tasks.files.{program}", directory]
    if secret is not None:
        words += [";", "started=$?;", "rm", "-f", f"{credential};", "exit", "$started"]
    yield StringCommand(*words)


def await_jobs(labels: dict[str, str]) -> FunctionCommand:
    """Watch jobs until each has ended; fails the host, with the job's own words, when one failed.

    :param labels: job name -> what to call it before the owner
    """
    return FunctionCommand(_watch, [labels], {})


def _watch(state: State, host: Host, labels: dict[str, str]) -> bool:
    said: dict[str, tuple[float, str]] = {}
    waiting = dict(labels)
    while waiting:
        for name, job in host.get_fact(Jobs, names=sorted(waiting)).items():
            ended = _ended(job, name)
            if ended is None:
                _say(host, labels[name], job.status, said, name)
                continue
            message, lines = ended
            if lines is None:
                host.log(f"{labels[name]}: {message}")
                del waiting[name]
                continue
            report(host, f"{labels[name]}: {message}", lines)
            for other in sorted(waiting.keys() - {name}):
                host.log(f"{labels[other]} goes on on the box; the next deploy finds it")
            return False
        if waiting:
            gevent.sleep(_POLL_S)
    return True


def _ended(job: Job, name: str) -> tuple[str, list[str] | None] | None:
    """None while it runs; else its message, with lines only when it did not succeed."""
    state = job.status.get("state", "")
    if state == "done":
        return str(job.status.get("message", "done")), None
    if state in ("failed", "stopped"):
        return str(job.status.get("message") or state), [str(line) for line in job.status.get("lines", [])]
    if job.running:
        return None
    # A job that died without a word: killed, out of memory, or the box went down.
    last = [f"its last step: {job.status.get('step')}"]
    if name.startswith(SWITCH):
        return "was interrupted, and what served before may be stopped; run deploy.py again now", last
    return "was interrupted; run deploy.py again, it goes on where it was", last


def _say(host: Host, label: str, status: dict[str, Any], said: dict[str, tuple[float, str]], name: str) -> None:
    """A line when the step changes, and every few seconds while only its numbers do."""
    line = progress_line(status)
    last_time, last_line = said.get(name, (0.0, ""))
    step_changed = line.split(":")[0] != last_line.split(":")[0]
    if line and line != last_line and (step_changed or time.monotonic() - last_time >= _SAY_EVERY_S):
        host.log(f"{label}: {line}")
        said[name] = (time.monotonic(), line)
