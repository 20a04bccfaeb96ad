"""A fault at one operation of the program that runs this file: its Nth system call that changes or starts something.

Python's own audit events tell each operation before it is done, so the Nth is also the moment after the one before.
LLAMARIG_FAULT_KIND: `count` writes the number of operations to LLAMARIG_FAULT_COUNT; `kill` and `term` send the process
that signal; `error` makes the operation fail; from that operation on, `full` refuses every file that is opened for
writing, as a full disk does. With `exit`, the Nth call of systemctl fails (systemctl_stand_in.py).
"""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

_CHANGES = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.truncate",
    "subprocess.Popen",
    "socket.connect",
    "fcntl.flock",
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Fault:
    """``at``: number of the operation, from 1 on."""

    def __init__(self, kind: str, at: int) -> None:
        self.kind, self.at, self.operations = kind, at, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        on_disk = not str(arguments[0]).startswith("/dev/")
        writes = event == "open" and on_disk and isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
        if not writes and event not in _CHANGES:
            return
        self.operations += 1
        if self.kind == "full" and self.operations >= self.at and writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
        if self.operations != self.at:
            return
        if self.kind in ("kill", "term"):
            os.kill(os.getpid(), signal.SIGKILL if self.kind == "kill" else signal.SIGTERM)
        elif self.kind == "error":
            raise RuntimeError(f"injected at {event} {str(arguments[0])[:60]}")


def _install() -> None:
    fault = Fault(os.environ["LLAMARIG_FAULT_KIND"], int(os.environ["LLAMARIG_FAULT_AT"]))
    if fault.kind == "count":
        atexit.register(lambda: Path(os.environ["LLAMARIG_FAULT_COUNT"]).write_text(str(fault.operations)))
    sys.addaudithook(fault)


if "LLAMARIG_FAULT_KIND" in os.environ:
    _install()
