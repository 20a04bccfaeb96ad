"""Switches a model's unit: checks it first, starts it, checks its answers, and restores what served where that fails.

Runs on the box as a transient systemd unit, so it ends with a serving model even if the connection that started it is
lost, an unexpected error occurs, or it is stopped itself (SIGTERM). If it is killed, restore_served.py restores what
served: as this unit's ExecStopPost=, or at the next boot.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from llamarig.remote.serve import model_units
from llamarig.remote.serve.answer_checks import check_answers
from llamarig.remote.serve.first_start import Answer, Started, start_as_planned
from llamarig.remote.serve.model_units import (
    file_identity,
    has_ended,
    install_unit,
    last_lines,
    pageable_warning,
    run,
    set_start_at_boot,
    state_of,
    stop,
    systemctl,
    wait_until_healthy,
)
from llamarig.remote.serve.port_in_use import await_left_connections, could_not_bind
from llamarig.remote.serve.roll_back import roll_back, roll_back_now
from llamarig.remote.serve.switch_checks import (
    check_certificate,
    check_flags,
    check_gpu,
    check_gpu_use,
    check_key_file,
    check_port,
)
from llamarig.remote.serve.switch_journal import (
    delete_journal,
    journal_lock,
    read_start_record,
    replaced_record,
    unfinished_switch,
    what_serves,
    write_journal,
)
from llamarig.remote.shared.deadline import run_within
from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.job_status import (
    JobFailedError,
    Progress,
    StoppedError,
    own_unit,
    run_job,
)
from llamarig.remote.shared.jobs import StartRecord, SwitchJob
from llamarig.remote.shared.unit_directives import directives, directives_sha256

_RESTORE_WAIT_S = 60.0
"""Seconds for what served before an interrupted switch to be started, without its loading."""


def switch(job: SwitchJob, progress: Progress) -> str:
    """Install the unit; where the job asks for it, start it and check its answers. Return the final message."""
    with _exclusive_switch(Path(job.proof).parent, progress):
        return _switch(job, progress)


def _switch(job: SwitchJob, progress: Progress) -> str:
    unit, directory = job.unit, Path(job.proof).parent
    left = unfinished_switch(directory)
    if left is not None:
        # Whatever becomes of this switch: what served before the interrupted one serves again until then.
        roll_back_now(directory, left)
    progress.step("checking the flags against the build")
    check_key_file(job)
    check_certificate(job)
    check_flags(job.check)
    if job.needs_gpu:
        check_gpu(job)
    if not job.start:
        return _install(job)
    journal = what_serves(job, left)
    check_port(job.port, [unit, *job.peers], "; nothing was changed")
    began: float | None = None

    def attempt(job: SwitchJob) -> Answer:
        nonlocal began
        install_unit(unit, job.text)
        began = began or time.monotonic()
        start(job)
        try:
            return _check_server(job, progress)
        except JobFailedError as failure:
            # A build of another time may bind with other options than the server before it did. Connections of that one
            # may have ended meanwhile.
            if not could_not_bind(failure.lines):
                raise
            await_left_connections(job.port, progress)
        start(job)
        return _check_server(job, progress)

    try:
        write_journal(directory, journal)
        try:
            started = start_as_planned(job, progress, attempt)
            _set_what_starts_at_boot(job)
            record_start(started, time.monotonic() - (began or 0))  # from here on, the new server is what served
        except StoppedError:
            raise
        # Any failure, expected or not, has to restore the model that served.
        except BaseException as failure:
            restored = roll_back(directory, journal, progress, began=began)
            lines = failure.lines if isinstance(failure, JobFailedError) else []
            raise JobFailedError(f"{describe(failure)}; {restored}", lines) from None
    except StoppedError as stopped:
        # Also for a signal during the restore above. SIGKILL follows some time later, so nothing is waited for.
        raise StoppedError(f"{stopped}; {roll_back_now(directory, journal)}") from None
    delete_journal(directory, journal)
    away = f"{unit} answers; it was away for {time.monotonic() - (began or 0):.0f} s"
    pageable = pageable_warning(state_of(unit)["MainPID"], job.pinned_mib)
    return "; ".join(filter(None, (away, started.remark, pageable)))


def _install(job: SwitchJob) -> str:
    """Install the unit of a model that does not run."""
    if state_of(job.unit)["ActiveState"] in ("active", "activating"):
        raise JobFailedError(
            f"{job.unit} was started since it was compared, so its file is not replaced without a check of its "
            "answers: run deploy.py again; nothing was changed"
        )
    install_unit(job.unit, job.text)
    record = read_start_record(Path(job.proof).parent, job.unit)
    installed = f"{job.unit} installed; `systemctl start {job.unit}` switches to it"
    if record is not None and directives(record.text) == directives(job.text):
        return installed
    return f"{installed}. It has not answered a prompt yet: run deploy.py after that, which checks its answers"


def _set_what_starts_at_boot(job: SwitchJob) -> None:
    """Enable the unit or disable it. Of units that exclude each other only one starts at boot."""
    others = job.peers if job.enable else job.retired
    for unit, enabled in [(job.unit, job.enable), *((other, False) for other in others)]:
        if trouble := set_start_at_boot(unit, enabled):
            raise JobFailedError(trouble)


def describe(failure: BaseException) -> str:
    """Describe a failure in one line. The traceback of an unexpected one goes to the journal."""
    if isinstance(failure, JobFailedError):
        return str(failure)
    if isinstance(failure, OSError):
        return f"{failure.strerror or failure}: {failure.filename or ''}".rstrip(": ")
    traceback.print_exception(type(failure), failure, failure.__traceback__, file=sys.stderr)
    return f"{type(failure).__name__}: {failure} (a bug in llamarig: see `journalctl -u {own_unit()}`)"


# --- lock -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _exclusive_switch(directory: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of switches and restores. No other switch runs beside an admitted one, but a restore may."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(journal_lock(directory))
        except BlockingIOError:
            progress.step("waiting for what served before an interrupted switch to be restored")
            held.enter_context(_lock_after_restore(directory))
        yield


@contextlib.contextmanager
def _lock_after_restore(directory: Path) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(journal_lock(directory, wait_s=_RESTORE_WAIT_S))
        except BlockingIOError:
            raise JobFailedError(
                "another switch is under way on this box: wait for its end and run deploy.py again; nothing was changed"
            ) from None
        yield


# --- start and checks -----------------------------------------------------------------------------------------------

_UNITS_WAIT_S = 2.0
"""So much earlier may the unit's own wait for the same time end (wait_until_ready.py), after which systemd stops it."""


def start(job: SwitchJob) -> None:
    """Stop the peers and the unit itself, then start the unit."""
    for unit in (*job.peers, job.unit):
        if not stop(unit):
            # Otherwise the checks would reach the old server instead of the new one.
            raise JobFailedError(f"{unit} does not stop (systemctl stop failed)")
    # Again: what has taken the port since the first check would share it with the new server.
    check_port(job.port, [])
    systemctl("reset-failed", job.unit)
    try:
        # Not until the model answers, which the caller watches with its progress.
        done = run_within(["systemctl", "start", "--no-block", job.unit], model_units.SYSTEMD_S)
    except subprocess.TimeoutExpired as hung:
        raise JobFailedError(f"{job.unit} was not started within {hung.timeout:.0f} s by systemd") from None
    if done.returncode:
        raise JobFailedError(f"{job.unit} does not start", [*done.stderr.splitlines(), *last_lines(job.unit)])


def _check_server(job: SwitchJob, progress: Progress) -> Answer:
    unit, began = job.unit, time.monotonic()
    if not wait_until_healthy(unit, job.load_timeout_s, progress, job.model_bytes):
        state, waited = state_of(unit), time.monotonic() - began
        reason = (
            f"ended while loading (exit {state['ExecMainStatus']})"
            if has_ended(state) and waited < job.load_timeout_s - _UNITS_WAIT_S
            else f"was not ready after {job.load_timeout_s} s (serve.load_timeout_s)"
        )
        raise JobFailedError(f"{unit} {reason}", last_lines(unit))
    check_port(job.port, [unit])
    check_gpu_use(job)
    try:
        return check_answers(job, state_of(unit)["MainPID"], progress)
    except OSError as error:
        raise JobFailedError(f"{unit} does not answer as a llama-server does ({error})", last_lines(unit)) from None


def record_start(started: Started, away_s: float) -> None:
    """Record the start: deploys compare with it, and failed switches and rollbacks return to it.

    :param away_s: seconds since what served before was stopped
    """
    job, answer = started.job, started.answer
    record = StartRecord(
        text=job.text,
        job=job,
        text_sha256=hashlib.sha256(job.text.encode()).hexdigest(),
        proved_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        build_info=answer.build_info,
        n_ctx=answer.n_ctx,
        tokens_per_second=answer.tokens_per_second,
        took_mib=started.took_mib,
        backed_off=started.backed_off,
        directives_sha256=directives_sha256(job.text),
        unit_file=file_identity(model_units.UNITS / job.unit),
        invocation=run(["systemctl", "show", job.unit, "-p", "InvocationID", "--value"]).strip(),
        away_s=round(away_s, 1),
    )
    path, replaced = Path(job.proof), replaced_record(Path(job.proof).parent, job.unit)
    last = read_start_record(path.parent, job.unit)
    replaced.unlink(missing_ok=True)
    if last is not None and directives(last.text) != directives(job.text):
        # A rollback returns to this.
        replace_file(replaced, path.read_text())
    replace_file(path, json.dumps(record.to_json()))


if __name__ == "__main__":
    run_job(SwitchJob, switch, unwinds=True)
