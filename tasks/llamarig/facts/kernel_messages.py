"""What the kernel has logged since boot about GPUs that failed and processes that it killed for lack of memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pyinfra.api.facts import FactBase

from llamarig.facts.output import parse_sections, section_number, sections_command

_NEWEST = 50_000
"""Messages that are searched, so that a box that has been up for months answers in a second."""
_SHOWN = 200

_WORTH_READING = (
    "NVRM: Xid|amdgpu.*(ring .* timeout|VRAM is lost|page fault|Not enough memory for command submission"
    "|MES(\\([0-9]+\\))? failed to respon)"
    "|oom-kill:|Killed process"
)
_LINE = re.compile(r"(?P<time>[0-9]{1,12})(?:\.[0-9]+)? \S+ kernel: (?P<text>.+)")
# NVIDIA's driver: "NVRM: Xid (PCI:0000:01:00): 79, pid=1234, name=llama-server, GPU has fallen off the bus."
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?(?P<bus>[0-9a-fA-F:.]+)\): (?P<code>[0-9]{1,4})\b")
# amdgpu: "amdgpu 0000:03:00.0: amdgpu: ring comp_1.0.0 timeout, signaled seq=4, emitted seq=6"; older kernels print
# "[drm:amdgpu_job_timedout [amdgpu]] *ERROR* ring gfx timeout, ..." without the address.
_AMD = {
    "ring timeout": re.compile(r"amdgpu.*\bring (?P<detail>\S+) timeout"),
    "VRAM lost": re.compile(r"amdgpu.*\bVRAM is lost"),
    "page fault": re.compile(r"amdgpu.*\bpage fault"),
    # "MES(1) failed to respond to msg=REMOVE_QUEUE"; kernels before 6.10: "MES failed to response msg=3".
    "MES hang": re.compile(r"amdgpu.*\bMES(?:\([0-9]+\))? failed to respon(?:d|se)\b"),
    "command submission": re.compile(r"amdgpu.*\bNot enough memory for command submission"),
}
_AMD_BUS = re.compile(r"\bamdgpu (?P<bus>[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])\b")
_KILLED = re.compile(r"Killed process (?P<pid>[0-9]{1,9}) \((?P<name>[^)]*)\)(?P<memory>.*)")
_RESIDENT = re.compile(r"\b(?:anon|file|shmem)-rss:(?P<kib>[0-9]{1,15})kB")
# Printed before "Killed process", with the control group and so the unit of the process.
_OOM = re.compile(r"oom-kill:constraint=(?P<constraint>\w+).*\btask_memcg=(?P<group>[^,]*),.*\bpid=(?P<pid>[0-9]{1,9})")


@dataclass(frozen=True)
class GpuMessage:
    """A failure of a GPU.

    ``code``: an Xid of NVIDIA's driver, or one of ``_AMD``; ``bus``: PCI address as logged, empty where the line has
    none; ``time``: seconds since 1970; ``detail``: which ring.
    """

    code: str
    bus: str
    time: int
    detail: str = ""


@dataclass(frozen=True)
class KilledProcess:
    """A process that the kernel killed for lack of memory.

    ``resident_kib``: its memory then; ``unit``: its systemd unit, empty if unknown; ``of_limit``: whether it exceeded a
    limit (MemoryMax) rather than the whole box having run out; ``time``: seconds since 1970.
    """

    pid: int
    name: str
    time: int
    resident_kib: int = 0
    unit: str = ""
    of_limit: bool = False


@dataclass(frozen=True)
class KernelLog:
    """``readable``: whether the box shows its kernel's messages, which a container does not; oldest first."""

    readable: bool = False
    gpu: tuple[GpuMessage, ...] = ()
    kills: tuple[KilledProcess, ...] = ()


class KernelMessages(FactBase[KernelLog]):
    """Kernel messages since boot, from the journal. The time is in seconds since 1970.

    Output::

        == readable
        1

        == messages
        1795849117.825687 vm kernel: oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,...
        1795849117.825694 vm kernel: Memory cgroup out of memory: Killed process 6375 (python3) total-vm:76560kB, ...
    """

    default = KernelLog

    def command(self) -> str:
        journal = "journalctl --dmesg --quiet --no-pager --output=short-unix"
        return sections_command(
            {
                "readable": f"{journal} -n 1 | grep -c .",
                "messages": f"timeout 20 {journal} -n {_NEWEST} | grep -aE '{_WORTH_READING}' | tail -n {_SHOWN}",
            }
        )

    def process(self, output: list[str]) -> KernelLog:
        sections = parse_sections(output)
        lines = [match for line in sections["messages"] if (match := _LINE.fullmatch(line)) is not None]
        texts = [(int(match["time"]), match["text"]) for match in lines]
        return KernelLog(
            readable=bool(section_number(sections["readable"])),
            gpu=tuple(message for time, text in texts if (message := _gpu(time, text)) is not None),
            kills=tuple(_kills(texts)),
        )


def shown_time(time: int) -> str:
    """A time in messages: ``2026-11-28 06:01 UTC``."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _gpu(time: int, text: str) -> GpuMessage | None:
    if (xid := _XID.search(text)) is not None:
        return GpuMessage(xid["code"], xid["bus"].lower(), time)
    for code, pattern in _AMD.items():
        if (match := pattern.search(text)) is not None:
            bus = _AMD_BUS.search(text)
            return GpuMessage(code, bus["bus"] if bus else "", time, match.groupdict().get("detail") or "")
    return None


def _kills(texts: list[tuple[int, str]]) -> Iterator[KilledProcess]:
    groups: dict[str, re.Match[str]] = {}
    for time, text in texts:
        if (oom := _OOM.search(text)) is not None:
            groups[oom["pid"]] = oom
        elif (killed := _KILLED.search(text)) is not None:
            of = groups.get(killed["pid"])
            unit = of["group"].rsplit("/", 1)[-1] if of is not None else ""
            yield KilledProcess(
                pid=int(killed["pid"]),
                name=killed["name"],
                time=time,
                resident_kib=sum(int(kib) for kib in _RESIDENT.findall(killed["memory"])),
                unit=unit if unit.endswith(".service") else "",
                of_limit=of is not None and of["constraint"] == "CONSTRAINT_MEMCG",
            )
