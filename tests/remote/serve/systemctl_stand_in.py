"""Stand-in for systemctl that manages the units of a directory: the commands that remote/serve/ runs.

The log of each start is in `logs/`, named by the identity of the start, which is its process.

As with systemd, a unit file takes effect at the next daemon-reload, a unit that starts stops those it conflicts with,
and a started server outlives this program. `power-cut` ends every server; `start-enabled` starts what is enabled, as a
boot does. LLAMARIG_STAND_IN names the directory: unit files are in `units/`, the rest is state of this program.
Starting a unit whose text contains `fills-the-disk` makes the calling process unable to write files.

Tests of switches start it thousands of times, so it imports little: what pathlib, re, shutil, subprocess and `site`
import takes more processor time than the rest.
"""

from __future__ import annotations

import os
import resource
import sys
import time

SIGKILL = 9
ROOT = os.environ["LLAMARIG_STAND_IN"]
UNITS, LOADED, PIDS, LOGS, ENABLED = (f"{ROOT}/{name}" for name in ("units", "loaded", "pids", "logs", "enabled"))
BOOTING = f"{ROOT}/booting"


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def delete(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def directive(name: str, text: str) -> list[str]:
    """Every value of a directive."""
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]


def pid_of(unit: str) -> int:
    """Process ID of the unit, 0 where no process runs."""
    try:
        pid = int(read(f"{PIDS}/{unit}"))
        state = read(f"/proc/{pid}/stat").rpartition(") ")[2][0]
        # A zombie's other threads may not have ended yet, and hold its sockets until then.
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except (OSError, ValueError):
        return 0
    return 0 if state in "ZX" and threads < 2 else pid


def stop(unit: str) -> None:
    if pid := pid_of(unit):
        os.kill(pid, SIGKILL)
        while pid_of(unit):
            time.sleep(0.01)
    delete(f"{PIDS}/{unit}")


def start(unit: str) -> None:
    if not os.path.exists(f"{LOADED}/{unit}"):
        sys.exit(f"Failed to start {unit}: Unit {unit} not found.")
    text = read(f"{LOADED}/{unit}")
    for other in os.listdir(LOADED):
        conflicts = directive("Conflicts", text if other == unit else read(f"{LOADED}/{other}"))
        for name in " ".join(conflicts).split():
            if other == unit:
                stop(name)
            elif name == unit:
                stop(other)
    if "fills-the-disk" in text:
        resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    if pid_of(unit):
        return
    import shlex
    import subprocess

    (command,) = directive("ExecStart", text)
    with open(f"{LOGS}/{unit}", "wb") as log:
        process = subprocess.Popen(shlex.split(command), stdout=log, stderr=log, stdin=log, start_new_session=True)
    os.rename(f"{LOGS}/{unit}", f"{LOGS}/{process.pid}")
    write(f"{PIDS}/{unit}", str(process.pid))


def show(unit: str, value: bool) -> None:
    pid, known = pid_of(unit), os.path.exists(f"{PIDS}/{unit}")
    invocation = read(f"{PIDS}/{unit}") if known else ""
    if value:
        print(invocation if "InvocationID" in sys.argv else pid)
        return
    print(f"ActiveState={'active' if pid else 'failed' if known else 'inactive'}")
    print(f"SubState={'running' if pid else 'dead'}\nMainPID={pid}\nNRestarts=0\nExecMainStatus={0 if pid else 1}")
    print(f"InvocationID={invocation}")
    print(f"UnitFileState={'enabled' if os.path.exists(f'{ENABLED}/{unit}') else 'disabled'}")


def reload() -> None:
    for name in os.listdir(LOADED):
        delete(f"{LOADED}/{name}")
    for name in os.listdir(UNITS):
        if name.endswith(".service"):
            write(f"{LOADED}/{name}", read(f"{UNITS}/{name}"))


def power_cut() -> None:
    for unit in os.listdir(PIDS):
        stop(unit)
    reload()
    write(BOOTING, "")


def main() -> None:
    # Undo the limit inherited from a process that `fills-the-disk` has limited: systemd would not inherit it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for directory in (LOADED, PIDS, LOGS, ENABLED):
        os.makedirs(directory, exist_ok=True)
    command, *words = sys.argv[1:]
    if "LLAMARIG_FAULT_CALLS" in os.environ:
        calls = os.environ["LLAMARIG_FAULT_CALLS"]
        number = int(read(calls)) + 1 if os.path.exists(calls) else 1
        write(calls, str(number))
        if os.environ["LLAMARIG_FAULT_KIND"] == "exit" and number == int(os.environ["LLAMARIG_FAULT_AT"]):
            sys.exit("Failed to do that (so this stand-in says)")
    units = [word for word in words if word.endswith(".service")]
    if command == "daemon-reload":
        reload()
    elif command == "power-cut":
        power_cut()
    elif command == "start-enabled":
        delete(BOOTING)
        for unit in os.listdir(ENABLED):
            if os.path.exists(f"{LOADED}/{unit}"):
                start(unit)
    elif command == "enable":
        write(f"{ENABLED}/{units[0]}", "")
    elif command == "disable":
        delete(f"{ENABLED}/{units[0]}")
    elif os.path.exists(BOOTING) and "--no-block" in words:
        pass  # `start-enabled` starts what is enabled by then
    elif command == "is-active":  # only basic.target is asked for so
        sys.exit(3 if os.path.exists(BOOTING) else 0)
    elif command == "list-units":
        print(*(f"{unit} loaded active running" for unit in os.listdir(PIDS) if pid_of(unit)), sep="\n")
    elif command == "show":
        show(units[0], "--value" in words)
    elif command in ("start", "stop", "restart") or (command == "try-restart" and pid_of(units[0])):
        if command != "start":
            stop(units[0])
        if command != "stop":
            start(units[0])


if __name__ == "__main__":
    main()
