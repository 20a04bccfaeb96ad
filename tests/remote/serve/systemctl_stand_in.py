"""Stand-in for systemctl that manages the units of a directory: the commands that remote/serve/ runs.

As with systemd, a unit file takes effect at the next daemon-reload, a unit that starts stops those it conflicts with,
and a started server outlives this program. `power-cut` ends every server; `start-enabled` starts what is enabled, as a
boot does. LLAMARIG_STAND_IN names the directory: unit files are in `units/`, the rest is state of this program.
Starting a unit whose text contains `fills-the-disk` makes the calling process unable to write files.
"""

from __future__ import annotations

import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ["LLAMARIG_STAND_IN"])
LOADED, PIDS, LOGS, ENABLED = ROOT / "loaded", ROOT / "pids", ROOT / "logs", ROOT / "enabled"


def pid_of(unit: str) -> int:
    """Process ID of the unit, 0 where no process runs."""
    try:
        pid = int((PIDS / unit).read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (OSError, ValueError):
        return 0
    return 0 if state in "ZX" else pid


def stop(unit: str) -> None:
    if pid := pid_of(unit):
        os.kill(pid, signal.SIGKILL)
        while pid_of(unit):
            time.sleep(0.01)
    (PIDS / unit).unlink(missing_ok=True)


def start(unit: str) -> None:
    if not (LOADED / unit).exists():
        sys.exit(f"Failed to start {unit}: Unit {unit} not found.")
    text = (LOADED / unit).read_text()
    for other in LOADED.iterdir():
        conflicts = re.findall(r"^Conflicts=(.*)$", text if other.name == unit else other.read_text(), re.MULTILINE)
        for name in " ".join(conflicts).split():
            if other.name == unit:
                stop(name)
            elif name == unit:
                stop(other.name)
    if "fills-the-disk" in text:
        resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    if pid_of(unit):
        return
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    with (LOGS / unit).open("ab") as log:
        process = subprocess.Popen(shlex.split(command), stdout=log, stderr=log, stdin=log, start_new_session=True)
    (PIDS / unit).write_text(str(process.pid))


def show(unit: str, value: bool) -> None:
    if value:  # only MainPID is asked for so
        print(pid_of(unit))
        return
    pid, known = pid_of(unit), (PIDS / unit).exists()
    print(f"ActiveState={'active' if pid else 'failed' if known else 'inactive'}")
    print(f"SubState={'running' if pid else 'dead'}\nMainPID={pid}\nNRestarts=0\nExecMainStatus={0 if pid else 1}")
    print(f"UnitFileState={'enabled' if (ENABLED / unit).exists() else 'disabled'}")


def reload() -> None:
    shutil.rmtree(LOADED)
    LOADED.mkdir()
    for file in (ROOT / "units").glob("*.service"):
        shutil.copy(file, LOADED)


def power_cut() -> None:
    for unit in list(PIDS.iterdir()):
        stop(unit.name)
    reload()


def main() -> None:
    # Undo the limit inherited from a process that `fills-the-disk` has limited: systemd would not inherit it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for directory in (LOADED, PIDS, LOGS, ENABLED):
        directory.mkdir(exist_ok=True)
    command, *words = sys.argv[1:]
    units = [word for word in words if word.endswith(".service")]
    if command == "daemon-reload":
        reload()
    elif command == "power-cut":
        power_cut()
    elif command == "start-enabled":
        for unit in ENABLED.iterdir():
            if (LOADED / unit.name).exists():
                start(unit.name)
    elif command == "enable":
        (ENABLED / units[0]).touch()
    elif command == "disable":
        (ENABLED / units[0]).unlink(missing_ok=True)
    elif command in ("start", "stop") and "--no-block" in words:
        pass  # at boot: `start-enabled` starts what is enabled by then
    elif command == "list-units":
        print(*(f"{file.name} loaded active running" for file in PIDS.iterdir() if pid_of(file.name)), sep="\n")
    elif command == "show":
        show(units[0], "--value" in words)
    elif command in ("start", "stop", "kill", "restart"):
        if command != "start":
            stop(units[0])
        if command in ("start", "restart"):
            start(units[0])


if __name__ == "__main__":
    main()
