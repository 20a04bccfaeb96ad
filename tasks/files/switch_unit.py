"""Puts a model's unit in place on the box: checked first, proved by a real answer, or everything as it was before.

Runs on the box as a transient systemd unit: once begun, it ends in a serving model even if the connection that began
it is gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from tasks.files.first_start import started_as_planned
from tasks.files.job_status import JobFailedError, Progress, run_job
from tasks.files.server_client import Server

UNITS = Path("/etc/systemd/system")
BEGAN = time.time()


def switch(job: dict[str, Any], progress: Progress) -> str:
    """Install the unit; where asked, start it and prove it. Returns the closing line."""
    unit = job["unit"]
    progress.step("checking the flags against the build")
    if job["api_key_file"] and not Path(job["api_key_file"]).exists():
        raise JobFailedError(
            f"api_key_file {job['api_key_file']} is not on this box: create it with one key a line "
            "(`openssl rand -hex 32`), root-owned and mode 600; nothing was changed"
        )
    check_flags(job["check"])
    if job["needs_gpu"]:
        check_gpu(job["check"][0], job["environment"])
    if not job["start"]:
        put_unit(unit, job["text"])
        return f"{unit} installed; `systemctl start {unit}` switches to it"
    check_port(job)
    before = Before(unit, job["peers"])
    began = time.monotonic()

    def attempt(job: dict[str, Any]) -> dict[str, Any]:
        put_unit(unit, job["text"])
        start(unit, job["peers"])
        return prove(job, progress)

    try:
        job, answer, said = started_as_planned(job, progress, attempt)
    except JobFailedError as failure:
        restored = before.restore(progress)
        raise JobFailedError(f"{failure}; {restored}", failure.lines) from None
    record_proof(job, answer)
    for retired in job["retired"]:
        systemctl("disable", "--quiet", retired)
    if job["enable"]:
        systemctl("enable", "--quiet", unit)
    away = f"{unit} answers; it was away for {time.monotonic() - began:.0f} s"
    return f"{away}; {said}" if said else away


# --- before anything is touched -------------------------------------------------------------------------------------


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


class Before:
    """What served before, so that it can serve again."""

    def __init__(self, unit: str, peers: list[str]) -> None:
        self.unit = unit
        self.began = time.monotonic()
        path = UNITS / unit
        proof = read_proof(unit)
        # A text that was proved once is preferred to whatever a broken-off switch may have left in the file.
        self.text = proof["text"] if proof else (path.read_text() if path.exists() else None)
        self.active = [name for name in [unit, *peers] if state_of(name)["ActiveState"] in ("active", "activating")]
        if not self.active and proof:
            self.active = [unit]

    def restore(self, progress: Progress) -> str:
        """The old text and the old models back; says what serves now."""
        progress.step("restoring what served before")
        systemctl("stop", self.unit)
        if self.text is None:
            (UNITS / self.unit).unlink(missing_ok=True)
            systemctl("daemon-reload")
        else:
            put_unit(self.unit, self.text)
        systemctl("reset-failed", self.unit)
        if not self.active:
            return "nothing served before, nothing serves now"
        for name in self.active:
            if name == self.unit and self.text is None:
                continue
            systemctl("start", name)
            if not wait_until_healthy(name, 900, progress):
                return f"and {name}, which served before, does not start either: see `journalctl -u {name}`"
        return f"{', '.join(self.active)} serves again as before; it was away for {time.monotonic() - self.began:.0f} s"


# --- the switch -----------------------------------------------------------------------------------------------------


def put_unit(unit: str, text: str) -> None:
    """Replace the unit file in one step and let systemd read it."""
    write_whole(UNITS / unit, text)
    (UNITS / unit).chmod(0o644)
    systemctl("daemon-reload")


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
    server = Server.of_process(state_of(unit)["MainPID"], key(job))
    properties = server.get("/props")
    built = str(properties.get("build_info", ""))
    commit = re.search(r"[0-9a-f]{7,40}$", built)
    if commit is None or not job["commit"].startswith(commit[0]):
        raise JobFailedError(f"{unit} reports build {built!r}, declared {job['commit']}", journal(unit))
    context = properties.get("default_generation_settings", {}).get("n_ctx", 0)
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
    except OSError as error:
        raise JobFailedError(f"{unit} does not answer a completion ({error})", journal(unit)) from None
    if not answer.get("usage", {}).get("completion_tokens"):
        raise JobFailedError(f"{unit} answered a completion without a token: {json.dumps(answer)[:200]}", journal(unit))
    return float(answer.get("timings", {}).get("predicted_per_second", 0.0))


def wait_until_healthy(unit: str, timeout: float, progress: Progress, model_bytes: int = 0) -> bool:
    """Whether /health turned 200; 503 while loading is normal. False once the process ended or time is up."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        state = state_of(unit)
        if has_ended(state):
            return False
        if is_healthy(state["MainPID"]):
            return True
        read = min(resident(state["MainPID"]), model_bytes)
        progress.step("loading the model", done=read >> 20, total=model_bytes >> 20, unit="MiB")
        time.sleep(0.5)
    return False


def has_ended(state: dict[str, str]) -> bool:
    """Whether the process that was started is gone, even if systemd is about to start another, or has."""
    return (
        state["ActiveState"] not in ("active", "activating")
        or state["SubState"] == "auto-restart"
        or int(state["NRestarts"] or 0) > 0
    )


def is_healthy(pid: str) -> bool:
    """Whether the server a process is answers /health with 200."""
    try:
        return Server.of_process(pid, None).is_healthy()
    except OSError:  # the process went away in between
        return False


def resident(pid: str) -> int:
    """Bytes a process has read or mapped so far: how far its load is, closely enough for an owner's patience."""
    try:
        read = re.search(r"rchar: (\d+)", Path(f"/proc/{pid}/io").read_text())
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return max(int(read[1]) if read else 0, int(pages) * 4096)


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
    last = read_proof(job["unit"])
    if last is not None and last["text"] != job["text"]:
        # What a rollback returns to.
        write_whole(path.with_name(f"{job['unit']}.previous.json"), json.dumps(last))
    write_whole(path, json.dumps(proof))


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step: at no moment is there none, or half of one."""
    part = path.with_suffix(".llamarig-part")
    part.write_text(text)
    part.replace(path)


def read_proof(unit: str) -> dict[str, Any] | None:
    """The last proof of a unit, None where there is none."""
    path = Path("/var/lib/llamarig/proofs") / f"{unit}.json"
    try:
        proof: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return proof


def key(job: dict[str, Any]) -> str | None:
    """The first API key of the declared key file."""
    if not job["api_key_file"]:
        return None
    lines = Path(job["api_key_file"]).read_text().splitlines()
    return next((line for line in lines if line and not line.startswith("#")), None)


# --- systemd --------------------------------------------------------------------------------------------------------


def state_of(unit: str) -> dict[str, str]:
    """ActiveState and what else is needed of a unit; a unit that does not exist is inactive."""
    text = run(["systemctl", "show", unit, "-p", "ActiveState,SubState,MainPID,NRestarts,ExecMainStatus"])
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def journal(unit: str) -> list[str]:
    """The last lines of a unit since this program began."""
    since = f"--since=@{int(BEGAN)}"
    return run(["journalctl", "-u", unit, since, "-n", "20", "-o", "cat", "--no-pager", "--quiet"]).splitlines()


def systemctl(*arguments: str) -> None:
    """systemctl, whose refusals show in the states read afterwards."""
    subprocess.run(["systemctl", *arguments], capture_output=True)


def run(command: list[str]) -> str:
    """Standard output of a command."""
    return subprocess.run(command, capture_output=True, text=True, errors="replace").stdout


if __name__ == "__main__":
    run_job(switch)
