"""Processes that hold the RAM of a box: model servers, and others that hold much."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyinfra.api.facts import FactBase

from llamarig.facts.output import parse_sections, section_number, sections_command, whole_number

_MUCH_KIB = 512 * 1024
"""Processes below this are reported only where they may be model servers."""
# Anonymous, shared and huge pages belong to the process. Mapped pages of files belong to the page cache unless they are
# locked. All these lines precede `Threads` (proc_pid_status(5)).
_PROCESSES = (
    "cat /proc/[0-9]*/status | awk '"
    '/^Name:/ {sub(/^Name:[ \\t]*/, ""); n = $0} /^Pid:/ {p = $2} /^VmLck:/ {l = $2} '
    "/^(RssAnon|RssShmem|HugetlbPages):/ {o += $2} /^RssFile:/ {f = $2} "
    f'/^Threads:/ {{if (o >= {_MUCH_KIB} || l || n == "llama-server") print p, o + 0, f + 0, l + 0, n; '
    "o = f = l = 0}'"
)
# Memory that a driver allocates for a process without charging it appears in no line of /proc/meminfo.
_CLAIMED = "MemFree|Buffers|Cached|SwapCached|AnonPages|Slab|KernelStack|PageTables|SecPageTables|Percpu|Hugetlb"


@dataclass(frozen=True)
class RamUser:
    """A process and its RAM in KiB. ``own_kib``: anonymous, shared and huge pages; ``mapped_kib``: pages of files."""

    pid: int
    name: str
    own_kib: int = 0
    mapped_kib: int = 0
    locked_kib: int = 0

    @property
    def gives_back_kib(self) -> int:
        """RAM that is available when it has ended: its own, and locked pages of files."""
        return self.own_kib + min(self.locked_kib, self.mapped_kib)


@dataclass(frozen=True)
class RamUsers:
    """Processes that hold RAM. ``is_known``: whether the box reported it.

    ``units``: running llamarig unit -> its process, None where it is not visible. ``others``: processes that hold much.
    ``unclaimed_kib``: RAM that is charged neither to a process nor to the kernel.
    """

    is_known: bool = False
    units: Mapping[str, RamUser | None] = field(default_factory=dict)
    others: tuple[RamUser, ...] = ()
    unclaimed_kib: int = 0


class RamHeld(FactBase[RamUsers]):
    """RAM use by the kernel's accounting; takes a few ms for hundreds of processes.

    Processes: pid, own, mapped and locked KiB, name::

        == units
        MainPID=413
        Id=llamarig-qwen3-coder-mxfp4.service

        == processes
        413 10515768 90924 0 python3
        414 8336 3153324 3145728 python3

        == unclaimed
        472476
    """

    default = RamUsers

    def command(self) -> str:
        return sections_command(
            {
                "units": "systemctl show --property=Id --property=MainPID 'llamarig-*.service'",
                "processes": _PROCESSES,
                "unclaimed": (
                    f"awk '/^MemTotal:/ {{t = $2}} /^({_CLAIMED}):/ {{t -= $2}} END {{print (t > 0 ? t : 0)}}' "
                    "/proc/meminfo"
                ),
            }
        )

    def process(self, output: list[str]) -> RamUsers:
        sections = parse_sections(output)
        users = {user.pid: user for line in sections["processes"] if (user := _user(line)) is not None}
        pids = _main_pids(sections["units"])
        unclaimed = section_number(sections["unclaimed"])
        return RamUsers(
            is_known=unclaimed is not None,
            units={unit: users.get(pid) for unit, pid in pids.items()},
            others=tuple(user for pid, user in users.items() if pid not in pids.values()),
            unclaimed_kib=unclaimed or 0,
        )


def _user(line: str) -> RamUser | None:
    match = re.fullmatch(r"(\d{1,9}) (\d{1,15}) (\d{1,15}) (\d{1,15}) (.*)", line)
    if match is None:
        return None
    return RamUser(int(match[1]), match[5], own_kib=int(match[2]), mapped_kib=int(match[3]), locked_kib=int(match[4]))


def _main_pids(lines: Iterable[str]) -> dict[str, int]:
    """Running unit -> PID of its main process. systemctl prints a unit's two lines in either order."""
    found: dict[str, int] = {}
    values: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition("=")
        values[key] = value
        if {"Id", "MainPID"} <= values.keys():
            if pid := whole_number(values["MainPID"]):
                found[values["Id"]] = pid
            values = {}
    return found
