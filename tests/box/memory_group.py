"""A control group of this machine with a limit of memory, for processes of a box.

A container's systemd enforces MemoryMax= only where this machine has the unified hierarchy; the kernel's limit is the
same one in both.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.box.deployment import Deployment

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryGroup:
    """The group. ``directory``: where the kernel shows it."""

    directory: Path

    @property
    def is_v1(self) -> bool:
        """Whether it is of the older hierarchy, which has a directory for memory alone."""
        return self.directory.parent == V1

    def add(self, pid: int) -> None:
        """Move a process into it: what it allocates from now on is counted here."""
        (self.directory / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        """Processes that were killed because the limit was reached."""
        text = (self.directory / ("memory.oom_control" if self.is_v1 else "memory.events")).read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))

    @property
    def peak_mib(self) -> int:
        """The most that was counted at any time."""
        name = "memory.max_usage_in_bytes" if self.is_v1 else "memory.peak"
        return int((self.directory / name).read_text()) >> 20


@contextmanager
def memory_group(name: str, mib: int) -> Iterator[MemoryGroup]:
    """A group with this limit and no swap. At the end its processes are killed, and it is removed."""
    group = MemoryGroup((V1 if V1.is_dir() else V2) / f"llamarig-test-{name}-{os.getpid()}")
    group.directory.mkdir()
    try:
        limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if group.is_v1 else ("memory.max",)
        for limit in limits:
            if (group.directory / limit).exists():  # memsw: a kernel that accounts for swap
                (group.directory / limit).write_text(str(mib << 20))
        if not group.is_v1:
            (group.directory / "memory.swap.max").write_text("0")
        yield group
    finally:
        for pid in (group.directory / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for _ in range(100):
            with suppress(OSError):
                group.directory.rmdir()
                break
            time.sleep(0.1)


def host_pid(deployment: Deployment, pid: int) -> int:
    """The number on this machine of a process that has another one on the box."""
    namespace = deployment.shell("readlink /proc/self/ns/pid")
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            numbers = (process / "status").read_text().partition("\nNSpid:")[2].splitlines()[0].split()
            if numbers[-1] == str(pid) and str((process / "ns/pid").readlink()) == namespace:
                return int(process.name)
    raise ProcessLookupError(f"no process of the box has the number {pid}")


@contextmanager
def started_in_group(
    deployment: Deployment, command: str, log: str, mib: int, *, name: str
) -> Iterator[tuple[MemoryGroup, int]]:
    """A command of the box in a group of its own from its first allocation on, and its number on the box.

    :param command: of the shell; it replaces the shell
    :param log: file on the box for what it prints
    """
    waits = f"{log}.go"
    started = f"(until test -e {waits}; do sleep 0.1; done; exec {command}) >{log} 2>&1 </dev/null & echo $!"
    pid = int(deployment.shell(f"rm -f {log} {waits}; {started}"))
    with memory_group(name, mib) as group:
        group.add(host_pid(deployment, pid))
        deployment.shell(f"touch {waits}")
        yield group, pid
