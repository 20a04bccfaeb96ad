"""Model units on the box: installing their files, their state in systemd, and whether their servers are ready."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.pinned_pages import PRICE, is_pageable
from llamarig.remote.shared.server_client import Server

UNITS = Path("/etc/systemd/system")
BEGAN = time.time()
"""When this program started, in seconds since 1970."""


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
        if is_healthy(state["MainPID"]):
            return True
        loaded = min(_loaded_bytes(state["MainPID"]), model_bytes)
        progress.step("loading the model", done=loaded >> 20, total=model_bytes >> 20, unit="MiB")
        time.sleep(0.5)
    return False


def has_ended(state: dict[str, str]) -> bool:
    """Whether the process that was started has ended, including where systemd restarts it."""
    return (
        state["ActiveState"] not in ("active", "activating")
        or state["SubState"] == "auto-restart"
        or int(state["NRestarts"] or 0) > 0
    )


def is_healthy(pid: str) -> bool:
    """Whether the server process answers /health with 200."""
    try:
        return Server.of_process(pid, None).is_healthy()
    except OSError:  # the process ended in between
        return False


def _loaded_bytes(pid: str) -> int:
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
    names = ("ActiveState", "SubState", "MainPID", "NRestarts", "ExecMainStatus", "UnitFileState")
    text = run(["systemctl", "show", unit, "-p", ",".join(names)])
    return {**dict.fromkeys(names, ""), **dict(line.split("=", 1) for line in text.splitlines() if "=" in line)}


def journal(unit: str) -> list[str]:
    """Read the unit's last log lines since this program started."""
    since = f"--since=@{int(BEGAN)}"
    return run(["journalctl", "-u", unit, since, "-n", "20", "-o", "cat", "--no-pager", "--quiet"]).splitlines()


def systemctl(*arguments: str) -> int:
    """Return the exit status of systemctl; 1 where it cannot be run."""
    try:
        return subprocess.run(["systemctl", *arguments], capture_output=True).returncode
    except OSError:  # no process can be started; a restore has to continue all the same
        return 1


def run(command: list[str]) -> str:
    """Return the standard output of a command; empty where it cannot be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
    except OSError:
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
