"""GPUs as llama.cpp lists them, and the memory that running model servers hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api.facts import FactBase

from llamarig.placement.devices import parse_device_list
from llamarig.records.plan_file import PlannedDevice
from llamarig.render.sandboxed_run import sandboxed


class PlannableDevices(FactBase[list[PlannedDevice]]):
    """The GPUs that a release of llama.cpp lists, in its order, in the environment and sandbox that it serves in.

    Output::

        Available devices:
          CUDA0: RTX 4090 (24564 MiB, 23671 MiB free)
          CUDA1: RTX 5070 Ti (16303 MiB, 12761 MiB free)
    """

    ends_within_s = 300
    """systemd ends it earlier, but may wait for a driver."""

    default = list

    def command(self, release: str, environment: Mapping[str, str], sandbox: Sequence[str] | None) -> str:
        """Shell command that lists them.

        :param sandbox: properties of a transient unit (render/sandboxed_run.py); None lists what root sees
        """
        words = [f"{release}/bin/llama-fit-params", "--list-devices"]
        if sandbox is not None:
            return f"{sandboxed(sandbox, words, environment, 60)} 2>/dev/null || true"
        variables = [f"{name}={value}" for name, value in sorted(environment.items())]
        return f"{shlex.join(['env', *variables, 'timeout', '60', *words])} 2>/dev/null || true"

    def process(self, output: list[str]) -> list[PlannedDevice]:
        return parse_device_list("\n".join(output))


@dataclass
class HeldMemory:
    """Memory in MiB. ``mem_available_mib``: of /proc/meminfo, 0 where unknown.

    ``ram_mib``: unit of a model server -> RAM that is free once it has stopped; ``vram_mib``: unit -> UUID of a GPU ->
    VRAM.
    """

    mem_available_mib: int = 0
    ram_mib: dict[str, int] = field(default_factory=dict)
    vram_mib: dict[str, dict[str, int]] = field(default_factory=dict)

    def available_mib(self, staying: Collection[str] = ()) -> int:
        """RAM that is available once all servers but these units have stopped."""
        return self.mem_available_mib + sum(mib for unit, mib in self.ram_mib.items() if unit not in staying)

    def freed_vram_mib(self, staying: Collection[str] = ()) -> dict[str, int]:
        """UUID of a GPU -> VRAM that is free in addition once all servers but these units have stopped."""
        freed: dict[str, int] = {}
        for unit, held in self.vram_mib.items():
            for uuid, mib in held.items() if unit not in staying else ():
                freed[uuid] = freed.get(uuid, 0) + mib
        return freed


class HeldByServers(FactBase[HeldMemory]):
    """Memory held by model servers, which a plan may use where the planned server replaces the running one.

    Output::

        MemAvailable:   21616268 kB
        MainPID=145
        Id=llamarig-tiny.service

        pid 145
        VmLck:	       0 kB
        RssAnon:	   33336 kB
        RssFile:	    5820 kB
        RssShmem:	       0 kB

    On a box with an NVIDIA GPU, then process, GPU and MiB::

        413, GPU-2c5c95f6-3a3d-da71-baf8-13e54a4de87c, 20998
    """

    default = HeldMemory

    def command(self) -> str:
        return (
            "grep MemAvailable /proc/meminfo; "
            "shown=$(systemctl show --property=MainPID --property=Id 'llamarig-*.service' 2>/dev/null); "
            """printf '%s\\n\\n' "$shown"; """
            """for p in $(printf '%s\\n' "$shown" | sed -n 's/^MainPID=//p'); do """
            "test $p -gt 0 2>/dev/null || continue; echo pid $p; "
            "grep -E '^(VmLck|RssAnon|RssFile|RssShmem):' /proc/$p/status; done; "
            "command -v nvidia-smi >/dev/null && "
            "nvidia-smi --query-compute-apps=pid,gpu_uuid,used_memory --format=csv,noheader,nounits; true"
        )

    def process(self, output: list[str]) -> HeldMemory:
        held, units = HeldMemory(), _units_by_pid(output)
        locked, unit = 0, ""
        for line in output:
            if kib := re.match(r"(MemAvailable|VmLck|RssAnon|RssFile|RssShmem):\s+(\d{1,15}) kB", line):
                mib = int(kib[2]) // 1024
                if kib[1] == "MemAvailable":
                    held.mem_available_mib = mib
                elif kib[1] == "VmLck":
                    locked = mib
                elif unit:
                    # Mapped pages of files count as available unless they are locked. VmLck comes before RssFile.
                    freed = min(mib, locked) if kib[1] == "RssFile" else mib
                    held.ram_mib[unit] = held.ram_mib.get(unit, 0) + freed
            elif pid := re.match(r"pid (\d+)$", line):
                locked, unit = 0, units.get(pid[1], "")
            elif (used := re.match(r"(\d+), (GPU-\S+), (\d{1,9})$", line)) and used[1] in units:
                cards = held.vram_mib.setdefault(units[used[1]], {})
                cards[used[2]] = cards.get(used[2], 0) + int(used[3])
        return held


def _units_by_pid(output: list[str]) -> dict[str, str]:
    """Main process -> unit, of the blocks that `systemctl show` prints, in which the properties come in any order."""
    found: dict[str, str] = {}
    pid = unit = ""
    for line in [*output, ""]:
        if shown := re.match(r"MainPID=([1-9]\d*)$", line):
            pid = shown[1]
        elif shown := re.match(r"Id=(\S+\.service)$", line):
            unit = shown[1]
        elif not line:
            if pid and unit:
                found[pid] = unit
            pid = unit = ""
    return found
