"""Model units on the box they serve on: their files, their state by systemd, and whether their servers are ready."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from tasks.files.job_status import JobFailedError, Progress
from tasks.files.server_client import Server

UNITS = Path("/etc/systemd/system")
BEGAN = time.time()


# --- their files ----------------------------------------------------------------------------------------------------


def put_unit(unit: str, text: str) -> None:
    """Replace the unit file in one step and let systemd read it.

    :raises JobFailedError: when systemd does not: it would start what it read before
    """
    write_whole(UNITS / unit, text)
    (UNITS / unit).chmod(0o644)
    if systemctl("daemon-reload"):
        raise JobFailedError(f"systemd does not read {unit} (systemctl daemon-reload fails)")


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step: at no moment is there none, or half of one, nor after a power cut."""
    part = path.with_suffix(".llamarig-part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


# --- their servers --------------------------------------------------------------------------------------------------


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


# --- systemd --------------------------------------------------------------------------------------------------------


def state_of(unit: str) -> dict[str, str]:
    """ActiveState and what else is needed of a unit; a unit that does not exist is inactive."""
    names = ("ActiveState", "SubState", "MainPID", "NRestarts", "ExecMainStatus")
    text = run(["systemctl", "show", unit, "-p", ",".join(names)])
    # Nothing is left out where systemd does not answer.
    return {**dict.fromkeys(names, ""), **dict(line.split("=", 1) for line in text.splitlines() if "=" in line)}


def journal(unit: str) -> list[str]:
    """The last lines of a unit since this program began."""
    since = f"--since=@{int(BEGAN)}"
    return run(["journalctl", "-u", unit, since, "-n", "20", "-o", "cat", "--no-pager", "--quiet"]).splitlines()


def systemctl(*arguments: str) -> int:
    """Exit status of systemctl, not 0 where it could not be run at all."""
    try:
        return subprocess.run(["systemctl", *arguments], capture_output=True).returncode
    except OSError:  # no process can be started: what is being put back must go on
        return 1


def run(command: list[str]) -> str:
    """Standard output of a command, empty where it could not be run at all."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
    except OSError:
        return ""
