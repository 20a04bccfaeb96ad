"""Who holds the box's RAM: the models' units, and every other program that holds much of it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.numbers import whole
from tasks.facts.sections import answers, ask, number
from tasks.planning.checks.box import RamUser, RamUsers

_MUCH_KIB = 512 * 1024
"""A process that holds less is only told of when it may be one of the models' servers."""
# Anonymous and shared pages are the process's own, and so are huge ones; pages of files it has mapped are the page
# cache's, unless it has locked them. What it has of each stands before its number of threads (proc_pid_status(5)).
_PROCESSES = (
    "cat /proc/[0-9]*/status | awk '"
    '/^Name:/ {sub(/^Name:[ \\t]*/, ""); n = $0} /^Pid:/ {p = $2} /^VmLck:/ {l = $2} '
    "/^(RssAnon|RssShmem|HugetlbPages):/ {o += $2} /^RssFile:/ {f = $2} "
    f'/^Threads:/ {{if (o >= {_MUCH_KIB} || l || n == "llama-server") print p, o + 0, f + 0, l + 0, n; '
    "o = f = l = 0}'"
)
# Memory that drivers took for a program without charging it with it belongs to no line of /proc/meminfo.
_CLAIMED = "MemFree|Buffers|Cached|SwapCached|AnonPages|Slab|KernelStack|PageTables|SecPageTables|Percpu|Hugetlb"


class RamHeld(FactBase[RamUsers]):
    """By the kernel's own accounts of processes and memory; a few ms for some hundred processes."""

    @staticmethod
    @override
    def default() -> RamUsers:
        return RamUsers()

    @override
    def command(self) -> str:
        return ask(
            [
                ("units", "systemctl show --property=Id --property=MainPID 'llamarig-*.service'"),
                ("processes", _PROCESSES),
                (
                    "unclaimed",
                    f"awk '/^MemTotal:/ {{t = $2}} /^({_CLAIMED}):/ {{t -= $2}} END {{print (t > 0 ? t : 0)}}' "
                    "/proc/meminfo",
                ),
            ]
        )

    @override
    def process(self, output: list[str]) -> RamUsers:
        said = answers(output)
        users = {user.pid: user for line in said.get("processes", []) if (user := _user(line)) is not None}
        pids = _main_pids(said.get("units", []))
        unclaimed = number(said.get("unclaimed"))
        return RamUsers(
            told=unclaimed is not None,
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
    """Unit -> its main process, for those that run. systemctl says each unit's two lines in an order of its own."""
    found: dict[str, int] = {}
    values: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition("=")
        values[key] = value
        if {"Id", "MainPID"} <= values.keys():
            if pid := whole(values["MainPID"]):
                found[values["Id"]] = pid
            values = {}
    return found
