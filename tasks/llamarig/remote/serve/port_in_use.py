"""Who uses a TCP port of this box: programs that listen on it, and connections of a server that has ended.

Read from the kernel's tables and not by an attempt to bind: servers that bind with SO_REUSEPORT share a port without a
word, and each then gets a part of the requests.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llamarig.remote.shared.job_status import Progress

LONGEST_S = 70.0
"""Seconds to wait for left connections. The kernel keeps one in TIME-WAIT for 60 s (net/tcp.h: TCP_TIMEWAIT_LEN)."""
_POLL_S = 0.5
_TABLES = ("tcp", "tcp6")
# include/net/tcp_states.h
_LISTEN, _CLOSE = "0A", "07"


@dataclass(frozen=True)
class Listener:
    """A process that listens on a port. ``unit``: its service, empty where it belongs to none."""

    pid: str
    name: str
    unit: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}, {self.unit or 'no unit'})" if self.pid else "a process of unknown name"


def listeners(port: int) -> list[Listener]:
    """Return the processes that listen on the port, on any address."""
    inodes = {inode for state, inode in _sockets(port) if state == _LISTEN}
    if not inodes:
        return []
    pids = {pid for inode, pid in _owners() if inode in inodes}
    found = [Listener(pid, _read(pid, "comm").strip(), _unit_of(pid)) for pid in sorted(pids, key=int)]
    # One of another PID namespace is not visible.
    return found or [Listener("", "", "")]


def left_connections(port: int) -> int:
    """Count the connections on the port of servers that run or have ended; TIME-WAIT counts, too."""
    return sum(state not in (_LISTEN, _CLOSE) for state, _ in _sockets(port))


def could_not_bind(log: Iterable[str]) -> bool:
    """Whether a server has logged that it could not bind its port: llama-server, or uvicorn of llama-cpp-python."""
    return any(re.search("couldn't bind|address already in use", line, re.IGNORECASE) for line in log)


def await_left_connections(port: int, progress: Progress, longest_s: float = LONGEST_S) -> bool:
    """Wait until the connections are gone that keep a server from binding the port.

    :return: False where there is none, or where some are left after that time
    """
    count, deadline = left_connections(port), time.monotonic() + longest_s
    if not count:
        return False
    what = "one connection" if count == 1 else f"{count} connections"
    progress.step(f"waiting up to {longest_s:.0f} s for {what} of the server before on port {port} to end")
    while left_connections(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _sockets(port: int) -> Iterator[tuple[str, str]]:
    """State and inode of each socket with this local port."""
    for table in _TABLES:
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[3], fields[9]


def _owners() -> Iterator[tuple[str, str]]:
    """Inode and process of every open socket."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = list((process / "fd").iterdir())
        except OSError:  # it has ended
            continue
        for file in files:
            with suppress(OSError):  # closed since it was listed
                if (found := re.fullmatch(r"socket:\[(\d+)\]", str(file.readlink()))) is not None:
                    yield found[1], process.name


def _unit_of(pid: str) -> str:
    found: list[str] = re.findall(r"/([^/\n]+\.service)(?:/|$)", _read(pid, "cgroup"), re.MULTILINE)
    return found[0] if found else ""


def _read(pid: str, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:  # it has ended
        return ""
