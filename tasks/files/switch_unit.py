"""Puts a model's unit in place on the box: checked first, proved by a real answer, or everything as it was before.

Runs on the box as a transient systemd unit: once begun, it ends in a serving model even if the connection that began
it is gone, whatever goes wrong on the way, and also where it is stopped itself (SIGTERM).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.files.first_start import started_as_planned
from tasks.files.job_status import JobFailedError, OtherOwnsStatusError, Progress, StoppedError, own_unit, run_job
from tasks.files.key_file import first_key
from tasks.files.model_units import (
    has_ended,
    journal,
    put_unit,
    run,
    state_of,
    systemctl,
    wait_until_healthy,
    write_whole,
)
from tasks.files.pinned_memory import not_pinned
from tasks.files.served_before import Before, read_proof
from tasks.files.server_client import NoAnswerError, Server


def switch(job: dict[str, Any], progress: Progress) -> str:
    """Install the unit; where asked, start it and prove it. Returns the closing line."""
    with the_only_switch(Path(job["proof"]).parent):
        return _switch(job, progress)


def _switch(job: dict[str, Any], progress: Progress) -> str:
    unit = job["unit"]
    progress.step("checking the flags against the build")
    check_key_file(job)
    check_flags(job["check"])
    if job["needs_gpu"]:
        check_gpu(job["check"][0], job["environment"])
    if not job["start"]:
        put_unit(unit, job["text"])
        return f"{unit} installed; `systemctl start {unit}` switches to it"
    check_port(job)
    before = Before(job)
    before.keep()
    began = time.monotonic()

    def attempt(job: dict[str, Any]) -> dict[str, Any]:
        put_unit(unit, job["text"])
        start(unit, job["peers"])
        return prove(job, progress)

    try:
        try:
            job, answer, said = started_as_planned(job, progress, attempt)
            record_proof(job, answer)
        except StoppedError:
            raise
        # Whatever it is, foreseen or not: a model served here, and its owner is perhaps asleep.
        except BaseException as failure:
            restored = before.restore(progress)
            lines = failure.lines if isinstance(failure, JobFailedError) else []
            raise JobFailedError(f"{in_words(failure)}; {restored}", lines) from None
    except StoppedError as stop:
        # Heard once, wherever it came: also while what served was being put back. SIGKILL follows some time later.
        raise StoppedError(f"{stop}; {before.restore(progress, wait=False)}") from None
    before.forget()
    for retired in job["retired"]:
        systemctl("disable", "--quiet", retired)
    if job["enable"]:
        systemctl("enable", "--quiet", unit)
    away = f"{unit} answers; it was away for {time.monotonic() - began:.0f} s"
    pageable = not_pinned(state_of(unit)["MainPID"], job.get("pinned_mib"))
    return "; ".join(filter(None, (away, said, pageable)))


def in_words(failure: BaseException) -> str:
    """What went wrong; what nobody foresaw has its traceback in this program's journal."""
    if isinstance(failure, JobFailedError):
        return str(failure)
    if isinstance(failure, OSError):
        return f"{failure.strerror or failure}: {failure.filename or ''}".rstrip(": ")
    traceback.print_exception(type(failure), failure, failure.__traceback__, file=sys.stderr)
    return f"{type(failure).__name__}: {failure} (a fault of llamarig: `journalctl -u {own_unit()}`)"


# --- before anything is touched -------------------------------------------------------------------------------------


@contextlib.contextmanager
def the_only_switch(proofs: Path) -> Iterator[None]:
    """Two of them would each take the other's half-started model for what served before.

    :param proofs: where what switches remember lies
    :raises JobFailedError: while another one is under way on this box
    :raises OtherOwnsStatusError: while that is this very job, begun a moment earlier by another deploy
    """
    proofs.mkdir(parents=True, exist_ok=True)
    holder, job_directory = proofs / ".switch-holder", sys.argv[1]
    with (proofs / ".switch-lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if holder.exists() and holder.read_text() == job_directory:
                raise OtherOwnsStatusError("this switch is under way already") from None
            raise JobFailedError(
                "another switch is under way on this box: wait for its end and run deploy.py again; nothing was changed"
            ) from None
        holder.write_text(job_directory)
        yield


def check_key_file(job: dict[str, Any]) -> None:
    """Without a usable key llama-server would not start, or let everyone in."""
    try:
        key(job)
    except OSError as error:
        raise JobFailedError(
            f"{error}: write it on the box, one key a line, owned by root and mode 600; nothing was changed"
        ) from None


def check_flags(command: list[str]) -> None:
    """llama-server with ``--help`` parses every flag and loads nothing; exit 1 where it refuses one."""
    if not Path(command[0]).exists():
        raise JobFailedError(f"{command[0]} is not there (any more): deploy.py builds it again; nothing was changed")
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        # After some of its errors it prints the usage of the flag, or of all of them.
        errors = [line for line in said if line.startswith("error")]
        lines = errors or said[-5:]
        raise JobFailedError(
            "this build of llama-server refuses the declared flags: correct them; nothing was changed", lines
        )


def check_gpu(program: str, environment: dict[str, str]) -> None:
    """A GPU build that sees no GPU serves all the same, on the CPU, at a tenth of the speed and without a word."""
    command = [program, "--list-devices"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, errors="replace")
    if not re.search(r"^\s+\w+\d+: ", done.stdout, re.MULTILINE):
        raise JobFailedError(
            "this build of llama-server sees no GPU: check the driver (nvidia-smi, vulkaninfo, rocminfo); "
            "nothing was changed",
            [*done.stdout.splitlines(), *done.stderr.splitlines()][-6:],
        )


def check_port(job: dict[str, Any]) -> None:
    """Somebody else's listener is named before the old model is stopped for nothing."""
    listeners = run(["ss", "-Hltnp", f"sport = :{job['port']}"])
    ours = {job["unit"], *job["peers"]}
    for pid in sorted(set(re.findall(r"pid=(\d+)", listeners))):
        owner = unit_of(pid)
        if owner not in ours:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            raise JobFailedError(
                f"port {job['port']} is in use by {name} (pid {pid}, {owner or 'no unit'}): give the model another "
                "serve.port, or stop that program; nothing was changed"
            )


def unit_of(pid: str) -> str:
    """The systemd unit a process belongs to, empty where it belongs to none."""
    text = Path(f"/proc/{pid}/cgroup").read_text()
    found: list[str] = re.findall(r"/([^/\n]+\.service)(?:/|$)", text, re.MULTILINE)
    return found[0] if found else ""


# --- the switch -----------------------------------------------------------------------------------------------------


def start(unit: str, peers: list[str]) -> None:
    """Stop whatever may not run beside it, then start it afresh."""
    for peer in peers:
        systemctl("stop", peer)
    systemctl("stop", unit)
    systemctl("reset-failed", unit)
    done = subprocess.run(["systemctl", "start", unit], capture_output=True, text=True)
    if done.returncode:
        raise JobFailedError(f"{unit} does not start", [*done.stderr.splitlines(), *journal(unit)])


def prove(job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Loaded, of the declared commit and context, and answering: a short prompt and one of over 1,024 tokens.

    Real regressions passed 20-token prompts and crashed on 100 (llama.cpp #19816).
    """
    unit = job["unit"]
    if not wait_until_healthy(unit, job["load_timeout_s"], progress, job["model_bytes"]):
        state = state_of(unit)
        reason = (
            f"ended while loading (exit {state['ExecMainStatus']})"
            if has_ended(state)
            else f"was not ready after {job['load_timeout_s']} s (serve.load_timeout_s)"
        )
        raise JobFailedError(f"{unit} {reason}", journal(unit))
    try:
        return answers(job, state_of(unit)["MainPID"], progress)
    except OSError as error:
        raise JobFailedError(f"{unit} does not answer as a llama-server does ({error})", journal(unit)) from None


def answers(job: dict[str, Any], pid: str, progress: Progress) -> dict[str, Any]:
    """What the server tells of itself and its speed, after it has told nothing to one without the key.

    :raises JobFailedError: when it is another build, has another context, or does not complete
    :raises OSError: when it does not answer
    """
    unit = job["unit"]
    if job["api_key_file"]:
        progress.step("asking without the key")
        refuses_without_key(Server.of_process(pid, None), unit)
    server = Server.of_process(pid, key(job))
    properties = server.get("/props")
    built = str(properties.get("build_info", ""))
    commit = re.search(r"[0-9a-f]{7,40}$", built)
    if commit is None or not job["commit"].startswith(commit[0]):
        raise JobFailedError(f"{unit} reports build {built!r}, declared {job['commit']}", journal(unit))
    context = at(properties, "default_generation_settings", "n_ctx")
    if not isinstance(context, int):
        raise JobFailedError(f"{unit} does not say its context: {json.dumps(properties)[:200]}", journal(unit))
    if context < job["context_per_slot"]:
        raise JobFailedError(
            f"{unit} serves a context of {context} tokens a slot, declared {job['context_per_slot']}: the model may be "
            "trained for less (then declare yarn_scale), or memory does not allow it",
            journal(unit),
        )
    progress.step("asking for a completion")
    short = canary(server, unit, "Say hello.")
    if job["context_per_slot"] >= 4096:
        progress.step("asking for a completion of a long prompt")
        canary(server, unit, "All the boxes in the house hum quietly at night. " * 120)
    return {"build_info": built, "n_ctx": context, "tokens_per_second": short}


def refuses_without_key(server: Server, unit: str) -> None:
    """A completion without the key has to end in HTTP 401.

    :raises JobFailedError: when it does not
    """
    request = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 1}
    try:
        server.post("/v1/chat/completions", request, timeout=600)
    except NoAnswerError as error:
        if error.status == 401:
            return
        raise JobFailedError(
            f"{unit}, asked without its key, does not refuse with HTTP 401 ({error})", journal(unit)
        ) from None
    raise JobFailedError(f"{unit} answers a completion without its key, and so anyone's", journal(unit))


def at(answer: Any, *names: str) -> Any:
    """What an answer has under these names, one inside the other; None where it is of another shape."""
    for name in names:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer


def canary(server: Server, unit: str, prompt: str) -> float:
    """Tokens per second of a small completion.

    :raises JobFailedError: when the server dies, refuses or returns no token
    """
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
    if not at(answer, "usage", "completion_tokens"):
        raise JobFailedError(f"{unit} answered a completion without a token: {json.dumps(answer)[:200]}", journal(unit))
    speed = at(answer, "timings", "predicted_per_second")
    return float(speed) if isinstance(speed, (int, float)) else 0.0


def record_proof(job: dict[str, Any], answer: dict[str, Any]) -> None:
    """The last unit text that answered: what deploy compares with, and what a failed switch returns to."""
    proof = {
        "text": job["text"],
        "job": job,
        "text_sha256": hashlib.sha256(job["text"].encode()).hexdigest(),
        "proved_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **answer,
    }
    path = Path(job["proof"])
    path.parent.mkdir(parents=True, exist_ok=True)
    last = read_proof(path.parent, job["unit"])
    if last is not None and last["text"] != job["text"]:
        # What a rollback returns to. Both are written before either takes its place: a disk may be full in between.
        part = path.with_suffix(".llamarig-new")
        part.write_text(json.dumps(proof))
        write_whole(path.with_name(f"{job['unit']}.previous.json"), json.dumps(last))
        part.replace(path)
        return
    write_whole(path, json.dumps(proof))


def key(job: dict[str, Any]) -> str | None:
    """The first API key of the declared key file, None where none is declared.

    :raises OSError: when there is no usable one
    """
    return first_key(job["api_key_file"]) if job["api_key_file"] else None


if __name__ == "__main__":
    run_job(switch, unwinds=True)
