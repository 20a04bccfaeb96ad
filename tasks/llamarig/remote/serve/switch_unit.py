"""Switches a model's unit: checks it first, starts it, checks its answers, and restores what served where that fails.

Runs on the box as a transient systemd unit, so it ends with a serving model even if the connection that started it is
lost, an unexpected error occurs, or it is stopped itself (SIGTERM). If it is killed, restore_served.py restores what
served: as this unit's ExecStopPost=, or at the next boot.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamarig.remote.serve import model_units
from llamarig.remote.serve.first_start import Answer, Started, start_as_planned
from llamarig.remote.serve.key_file import first_key
from llamarig.remote.serve.model_units import (
    file_identity,
    has_ended,
    install_unit,
    journal,
    pageable_warning,
    run,
    state_of,
    systemctl,
    wait_until_healthy,
)
from llamarig.remote.serve.port_in_use import await_left_connections, listeners
from llamarig.remote.serve.roll_back import roll_back, roll_back_now
from llamarig.remote.serve.switch_journal import (
    delete_journal,
    journal_lock,
    read_start_record,
    unfinished_switch,
    what_serves,
    write_journal,
)
from llamarig.remote.serve.unit_sandbox import (
    character_drivers,
    closed_devices,
    device_nodes,
    has_gpu,
    list_devices,
)
from llamarig.remote.shared.durable import locked, replace_files
from llamarig.remote.shared.job_status import (
    JobFailedError,
    Progress,
    StoppedError,
    own_unit,
    run_job,
)
from llamarig.remote.shared.jobs import StartRecord, SwitchJob
from llamarig.remote.shared.server_client import NoAnswerError, Server
from llamarig.remote.shared.unit_directives import directives, directives_sha256

# Real regressions answered prompts of 20 tokens and crashed at 100 (llama.cpp #19816); this one has over 1,024.
_LONG_PROMPT = "All the boxes in the house hum quietly at night. " * 120
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
    _check_key_file(job)
    _check_flags(job.check)
    if job.needs_gpu:
        _check_gpu(job)
    if not job.start:
        install_unit(unit, job.text)
        return f"{unit} installed; `systemctl start {unit}` switches to it"
    journal = what_serves(job)
    _check_port(job.port, [unit, *job.peers], "; nothing was changed")
    if left is not None and left.unit == unit:
        # It may not have loaded yet, so that it does not answer.
        journal = replace(journal, text=left.text, unit_file=left.unit_file)
    began: float | None = None

    def attempt(job: SwitchJob) -> Answer:
        nonlocal began
        install_unit(unit, job.text)
        began = began or time.monotonic()
        start(job)
        try:
            return _check_server(job, progress)
        except JobFailedError as failure:
            # A build of another time may bind with other options than the server before it did.
            if not (_could_not_bind(failure) and await_left_connections(job.port, progress)):
                raise
        start(job)
        return _check_server(job, progress)

    try:
        write_journal(directory, journal)
        try:
            started = start_as_planned(job, progress, attempt)
            _set_what_starts_at_boot(job)
            record_start(started)  # from here on, the new server is what served
        except StoppedError:
            raise
        # Any failure, expected or not, has to restore the model that served.
        except BaseException as failure:
            restored = roll_back(directory, journal, progress, began=began)
            lines = failure.lines if isinstance(failure, JobFailedError) else []
            raise JobFailedError(f"{describe(failure)}; {restored}", lines) from None
    except StoppedError as stop:
        # Also for a signal during the restore above. SIGKILL follows some time later, so nothing is waited for.
        raise StoppedError(f"{stop}; {roll_back_now(directory, journal)}") from None
    delete_journal(directory, journal)
    away = f"{unit} answers; it was away for {time.monotonic() - (began or 0):.0f} s"
    pageable = pageable_warning(state_of(unit)["MainPID"], job.pinned_mib)
    return "; ".join(filter(None, (away, started.remark, pageable)))


def _set_what_starts_at_boot(job: SwitchJob) -> None:
    for retired in job.retired:
        systemctl("disable", "--quiet", retired)
    if job.enable:
        systemctl("enable", "--quiet", job.unit)


def describe(failure: BaseException) -> str:
    """Describe a failure in one line. The traceback of an unexpected one goes to the journal."""
    if isinstance(failure, JobFailedError):
        return str(failure)
    if isinstance(failure, OSError):
        return f"{failure.strerror or failure}: {failure.filename or ''}".rstrip(": ")
    traceback.print_exception(type(failure), failure, failure.__traceback__, file=sys.stderr)
    return f"{type(failure).__name__}: {failure} (a bug in llamarig: see `journalctl -u {own_unit()}`)"


# --- checks before anything is changed ------------------------------------------------------------------------------


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


def _check_key_file(job: SwitchJob) -> None:
    """Check the API key file: without a usable key llama-server does not start, or serves without authentication."""
    try:
        _api_key(job)
    except OSError as error:
        raise JobFailedError(
            f"{error}: write it on the box, one key per line, owned by root and mode 600; nothing was changed"
        ) from None


def _check_flags(command: Sequence[str]) -> None:
    """Run llama-server with ``--help``: it parses all flags, loads nothing, and exits with 1 where it rejects one."""
    if not Path(command[0]).exists():
        raise JobFailedError(f"{command[0]} is missing: run deploy.py, which builds it again; nothing was changed")
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        output = [line for line in done.stderr.splitlines() if line.strip()]
        # Some of its errors are followed by the usage text of the flag, or of all flags.
        errors = [line for line in output if line.startswith("error")]
        raise JobFailedError(
            "this build of llama-server rejects the declared flags: correct them; nothing was changed",
            errors or output[-5:],
        )


def _check_gpu(job: SwitchJob) -> None:
    """Check that the build sees a GPU in its sandbox: otherwise llama-server serves from the CPU, without a warning."""
    program = job.check[0]
    inside = list_devices(program, job.environment, job.text)
    if has_gpu(inside):
        return
    as_root = list_devices(program, job.environment)
    if not has_gpu(as_root):
        raise JobFailedError(
            "this build of llama-server sees no GPU: check the driver (nvidia-smi, vulkaninfo, rocminfo); "
            "nothing was changed",
            [*as_root.stdout.splitlines(), *as_root.stderr.splitlines()][-6:],
        )
    closed = closed_devices(job.text, device_nodes(), character_drivers(Path("/proc/devices").read_text()))
    raise JobFailedError(
        "this build of llama-server sees a GPU as root, but none in the sandbox of its unit"
        + (f", which is kept from {', '.join(closed)}" if closed else "")
        + ": give device nodes mode 666 (NVIDIA), or report the name that is missing; nothing was changed",
        [*inside.stdout.splitlines(), *inside.stderr.splitlines()][-6:],
    )


def _check_port(port: int, ours: Iterable[str], outcome: str = "") -> None:
    """Check that no program but these units listens on the port: two that bind with SO_REUSEPORT share the requests."""
    pids = {state_of(unit)["MainPID"] for unit in ours}
    for listener in listeners(port):
        if listener.pid not in pids:
            raise JobFailedError(
                f"port {port} is in use by {listener}: give the model another serve.port, or stop that program{outcome}"
            )


# --- start and checks -----------------------------------------------------------------------------------------------


def start(job: SwitchJob) -> None:
    """Stop the peers and the unit itself, then start the unit."""
    for peer in job.peers:
        systemctl("stop", peer)
    systemctl("stop", job.unit)
    # Again: what has taken the port since the first check would share it with the new server.
    _check_port(job.port, [])
    systemctl("reset-failed", job.unit)
    done = subprocess.run(["systemctl", "start", job.unit], capture_output=True, text=True)
    if done.returncode:
        raise JobFailedError(f"{job.unit} does not start", [*done.stderr.splitlines(), *journal(job.unit)])


def _could_not_bind(failure: JobFailedError) -> bool:
    return any(re.search("couldn't bind|address already in use", line, re.IGNORECASE) for line in failure.lines)


def _check_server(job: SwitchJob, progress: Progress) -> Answer:
    unit = job.unit
    if not wait_until_healthy(unit, job.load_timeout_s, progress, job.model_bytes):
        state = state_of(unit)
        reason = (
            f"ended while loading (exit {state['ExecMainStatus']})"
            if has_ended(state)
            else f"was not ready after {job.load_timeout_s} s (serve.load_timeout_s)"
        )
        raise JobFailedError(f"{unit} {reason}", journal(unit))
    _check_port(job.port, [unit])
    try:
        return _check_answers(job, state_of(unit)["MainPID"], progress)
    except OSError as error:
        raise JobFailedError(f"{unit} does not answer as a llama-server does ({error})", journal(unit)) from None


def _check_answers(job: SwitchJob, pid: str, progress: Progress) -> Answer:
    unit = job.unit
    if job.api_key_file:
        progress.step("checking a request without the API key")
        _check_refusal_without_key(Server.of_process(pid, None), unit)
    server = Server.of_process(pid, _api_key(job))
    properties = server.get("/props")
    build = str(properties.get("build_info", ""))
    commit = re.search(r"[0-9a-f]{7,40}$", build)
    if commit is None or not job.commit.startswith(commit[0]):
        raise JobFailedError(f"{unit} reports build {build!r}, declared {job.commit}", journal(unit))
    context = _nested(properties, "default_generation_settings", "n_ctx")
    if not isinstance(context, int):
        raise JobFailedError(f"{unit} does not report its context: {json.dumps(properties)[:200]}", journal(unit))
    if context < job.context_per_slot:
        raise JobFailedError(
            f"{unit} serves a context of {context} tokens per slot, declared {job.context_per_slot}: the model may be "
            "trained for less (then declare yarn_scale), or memory does not allow it",
            journal(unit),
        )
    progress.step("checking a completion")
    tokens_per_second = _check_completion(server, unit, "Say hello.")
    if job.context_per_slot >= 4096:
        progress.step("checking a completion of a long prompt")
        _check_completion(server, unit, _LONG_PROMPT)
    return Answer(build_info=build, n_ctx=context, tokens_per_second=tokens_per_second)


def _check_refusal_without_key(server: Server, unit: str) -> None:
    request = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 1}
    try:
        server.post("/v1/chat/completions", request, timeout=600)
    except NoAnswerError as error:
        if error.status == 401:
            return
        raise JobFailedError(
            f"{unit} does not refuse a request without the API key with HTTP 401 ({error})", journal(unit)
        ) from None
    raise JobFailedError(f"{unit} completes a request without the API key, so anyone's", journal(unit))


def _nested(answer: Any, *names: str) -> Any:
    """Return the value under these keys, one inside the other; None where the answer has another shape."""
    for name in names:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer


def _check_completion(server: Server, unit: str, prompt: str) -> float:
    request = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 8,
        "temperature": 0,
        "cache_prompt": False,
    }
    try:
        answer = server.post("/v1/chat/completions", request, timeout=600)
    except NoAnswerError as error:
        raise JobFailedError(f"{unit} does not answer a completion ({error})", journal(unit)) from None
    if not _nested(answer, "usage", "completion_tokens"):
        raise JobFailedError(f"{unit} answered a completion without a token: {json.dumps(answer)[:200]}", journal(unit))
    speed = _nested(answer, "timings", "predicted_per_second")
    return float(speed) if isinstance(speed, (int, float)) else 0.0


def record_start(started: Started) -> None:
    """Record the start: deploys compare with it, and failed switches and rollbacks return to it."""
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
    )
    path, text = Path(job.proof), json.dumps(record.to_json())
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        contents = {path: text}
        last = read_start_record(path.parent, job.unit)
        if last is not None and directives(last.text) != directives(job.text):
            # A rollback returns to this.
            contents = {path.with_name(f"{job.unit}.previous.json"): path.read_text(), path: text}
        replace_files(contents)


def _api_key(job: SwitchJob) -> str | None:
    return first_key(job.api_key_file) if job.api_key_file else None


if __name__ == "__main__":
    run_job(SwitchJob, switch, unwinds=True)
