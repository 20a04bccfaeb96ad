"""Reports each phase of a switch on the virtual machine's serial console, and waits there for the power cut.

The virtual machine has it as the `sitecustomize` of its switches, so that the program itself stays as it is. Python's
audit events tell each operation before it is done.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

UNIT = "llamarig-tiny.service"
MARK = "power-cut-phase"
CONSOLE = "/dev/ttyS0"
FIRST_WAIT_S, WAIT_S = 5.0, 2.0
"""Of the machine's own clock, which stands still while its state is saved. The first phase is where that happens."""

# A phase -> the operation before which it lies: an audit event, and the end of its first argument that names something
# (the new name of a file, or a command line). In the order of a switch; each counts from the phase before it on.
PHASES = {
    "before the journal is written": ("os.rename", "/switch-journal"),
    "the journal is written": ("os.rename", f"/{UNIT}"),
    "the new unit file is in place": ("subprocess.Popen", f"systemctl stop {UNIT}"),
    "the old server is stopped": ("subprocess.Popen", f"systemctl start --no-block {UNIT}"),
    "the new server is started": ("socket.connect", ""),
    "the new server has answered": ("os.rename", f"/{UNIT}.replaced"),
    "the record that it replaces is kept": ("os.rename", f"/{UNIT}.json"),
    "the switch is committed": ("os.rename", f"/{UNIT}.previous.json"),
    "a rollback can undo it": ("os.remove", "/switch-journal"),
    "the journal is deleted": ("os.remove", f"/{UNIT}.llamarig-before"),
}


class Phases:
    """The audit hook. ``reached``: how many phases have been reported."""

    def __init__(self) -> None:
        self.reached = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.reached == len(PHASES):
            return
        wanted, ending = list(PHASES.values())[self.reached]
        if event != wanted or not _named(event, arguments).endswith(ending):
            return
        self.reached += 1
        with Path(CONSOLE).open("w") as console:
            console.write(f"\n{MARK} {self.reached}\n")
        time.sleep(FIRST_WAIT_S if self.reached == 1 else WAIT_S)


def _named(event: str, arguments: tuple[Any, ...]) -> str:
    if event == "subprocess.Popen":
        return " ".join(map(str, arguments[1]))
    return os.fspath(arguments[1 if event == "os.rename" else 0]) if event.startswith("os.") else ""


if __name__ == "sitecustomize":
    sys.addaudithook(Phases())
