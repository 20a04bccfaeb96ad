"""Model units on the box: installing their files, their state in systemd, and whether their servers are ready."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

from llamarig.remote.serve.key_file import first_key
from llamarig.remote.shared.deadline import run_within
from llamarig.remote.shared.durable import replace_file, sync_directory
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.pinned_pages import PRICE, is_pageable
from llamarig.remote.shared.server_client import Server

UNITS = Path("/etc/systemd/system")
SYSTEMD_S = 300.0
"""Seconds for a command of systemd's. Stopping a server takes 20 s. Starts are not waited for."""


# --- files ----------------------------------------------------------------------------------------------------------


def install_unit(unit: str, text: str) -> None:
    """Replace the unit file atomically and reload systemd.

    :raises JobFailedError: when systemd does not reload: it would start the old text
    """
    replace_file(UNITS / unit, text, mode=0o644)
    if systemctl("daemon-reload"):
        raise JobFailedError(f"systemd does not reload {unit} (systemctl daemon-reload failed)")


def file_identity(path: Path) -> str:
    """Return a file's modification time as `stat -c %.9Y` prints it; empty where there is no file.

    Compared for equality alone, so that a clock that was set wrong does not matter.
    """
    try:
        nanoseconds = path.stat().st_mtime_ns
    except OSError:
        return ""
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"


def set_identity(path: Path, identity: str) -> None:
    """Give a file the modification time of an earlier one with the same content."""
    seconds, _, nanoseconds = identity.partition(".")
    if seconds.isdigit() and nanoseconds.isdigit():
        times = int(seconds) * 10**9 + int(nanoseconds)
        os.utime(path, ns=(times, times))


# --- servers --------------------------------------------------------------------------------------------------------


def wait_until_healthy(unit: str, timeout: float, progress: Progress, model_bytes: int = 0) -> bool:
    """Wait until /health answers 200; it answers 503 while the model loads.

    :param timeout: seconds
    :param model_bytes: size of the model's files, for the progress display
    :return: False when the process ended or the time is over
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        state = state_of(unit)
        if has_ended(state):
            return False
        if is_healthy(unit, state["MainPID"]):
            return True
        loaded = min(loaded_bytes(state["MainPID"]), model_bytes)
        progress.step("loading the model", done=loaded >> 20, total=model_bytes >> 20, unit="MiB")
        time.sleep(0.5)
    return False


def has_ended(state: dict[str, str]) -> bool:
    """Whether the process that was started has ended, including where systemd restarts it.

    Not where systemd did not answer: while it reloads, a question waits for 25 s at most, which a busy box may exceed.
    Nor where a start is still in systemd's queue.
    """
    is_queued = bool(state["Job"]) and state["ActiveState"] in ("inactive", "failed", "deactivating")
    return bool(state["ActiveState"]) and (
        (state["ActiveState"] not in ("active", "activating") and not is_queued)
        or state["SubState"] == "auto-restart"
        or int(state["NRestarts"] or 0) > 0
    )


def is_healthy(unit: str, pid: str) -> bool:
    """Whether the server process of a unit answers /health with 200. With its key, which an API with a prefix wants."""
    try:
        key = key_of(unit)
    except OSError:
        key = None
    try:
        return Server.of_process(pid, key).is_healthy()
    except OSError:  # the process ended in between
        return False


def key_of(unit: str) -> str | None:
    """Return the first API key of the unit's key file; None for a unit without one.

    :raises OSError: for a missing file, or one without a usable key
    """
    found = credentials_of((UNITS / unit).read_text()).get("api-key")
    return None if found is None else first_key(found)


def credentials_of(text: str) -> dict[str, str]:
    """Return the credentials of a unit's text: name -> path of its file."""
    return dict(re.findall(r"^LoadCredential=([^:\n]+):(.+)$", text, re.MULTILINE))


def loaded_bytes(pid: str) -> int:
    """Estimate how much a process has loaded: the bytes it has read or mapped, whichever is more."""
    try:
        read = re.search(r"rchar: (\d+)", Path(f"/proc/{pid}/io").read_text())
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return max(int(read[1]) if read else 0, int(pages) * 4096)


# --- systemd --------------------------------------------------------------------------------------------------------


def state_of(unit: str) -> dict[str, str]:
    """Read the properties of a unit that a switch needs. All are empty where systemd does not answer."""
    process = ("MainPID", "NRestarts", "ExecMainStatus", "InvocationID")
    names = ("ActiveState", "SubState", "Job", "UnitFileState", *process)
    text = run(["systemctl", "show", unit, "-p", ",".join(names)])
    return {**dict.fromkeys(names, ""), **dict(line.split("=", 1) for line in text.splitlines() if "=" in line)}


def set_start_at_boot(unit: str, wanted: bool) -> str:
    """Enable a unit or disable it, where it is not so already; return what went wrong, or an empty text.

    The links are then on the disk: systemd does not sync them, and not every file system writes changes of two
    directories in their order.
    """
    state, command, problem = state_of(unit), "enable" if wanted else "disable", ""
    # It refuses to disable a unit without a file. Where it does not answer, every property is empty.
    is_so = bool(state["ActiveState"]) and (state["UnitFileState"] == "enabled") == wanted
    if not is_so and systemctl(command, "--quiet", unit):
        problem = f"{unit} {'does not start' if wanted else 'still starts'} at boot (systemctl {command} failed)"
    with contextlib.suppress(OSError):  # there is no such directory, or it cannot be synced: the links are there
        sync_directory(UNITS / "multi-user.target.wants")
    return problem


def stop(unit: str) -> bool:
    """Stop a unit; return whether it no longer runs. A unit that systemd does not know is none that runs."""
    return systemctl("stop", unit) == 0 or state_of(unit)["ActiveState"] in ("inactive", "failed")


def log_of(unit: str, *options: str, first: int | None = None) -> list[str]:
    """Read what the last start of a unit has logged, and systemd about it. Found by its identity: clocks can be set.

    :param options: of journalctl
    :param first: how many lines from the beginning; all if None. Those of weeks are not read for that
    """
    invocation = state_of(unit)["InvocationID"]
    if not invocation:
        return []
    run(["journalctl", "--sync"])
    entries = [f"_SYSTEMD_INVOCATION_ID={invocation}", "+", f"INVOCATION_ID={invocation}"]
    command = ["journalctl", *entries, *options, "-o", "cat", "--no-pager", "--quiet"]
    if first is not None:  # journalctl --lines=+N is of systemd 254
        command = ["sh", "-c", f"{shlex.join(command)} | head -n {first}"]
    return run(command).splitlines()


def last_lines(unit: str) -> list[str]:
    """Read the last lines of that log, to explain a failure."""
    return log_of(unit, "-n", "20")


def systemctl(*arguments: str) -> int:
    """Return the exit status of systemctl; 1 where it cannot be run, or does not end."""
    try:
        return run_within(["systemctl", *arguments], SYSTEMD_S).returncode
    # No process can be started, or systemd hangs; a restore has to continue all the same.
    except (OSError, subprocess.TimeoutExpired):
        return 1


def run(command: list[str]) -> str:
    """Return the standard output of a command; empty where it cannot be run, or does not end."""
    try:
        return run_within(command, SYSTEMD_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


# llama-server does not log whether its weights are pinned: a refused pinned allocation is only a debug line.
def shared_mib(pid: str) -> int | None:
    """Return the shared memory of a process in RAM (RssShmem) in MiB; None where the kernel does not report it."""
    try:
        found = re.search(r"^RssShmem:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) // 1024 if found else None


def pageable_warning(pid: str, pinned_mib: int | None) -> str:
    """Return a warning where the server's weights should be pinned and are not; else an empty text.

    :param pinned_mib: MiB of weights that should be pinned, None where none should
    """
    shared = shared_mib(pid)
    if not pinned_mib or shared is None or not is_pageable(shared, pinned_mib):
        return ""
    return (
        f"its weights in RAM are not pinned ({shared} MiB of shared memory, {pinned_mib} MiB of weights), {PRICE}; "
        "restart it when memory is free"
    )
