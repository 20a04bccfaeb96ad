"""GPUs as llama.cpp lists them, and the memory that running model servers hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyinfra.api.facts import FactBase

from llamarig.placement.devices import parse_device_list
from llamarig.records.plan_file import PlannedDevice


class PlannableDevices(FactBase[list[PlannedDevice]]):
    """The GPUs that a release of llama.cpp lists, in its order, in the environment that it serves in.

    Output::

        Available devices:
          CUDA0: RTX 4090 (24564 MiB, 23671 MiB free)
          CUDA1: RTX 5070 Ti (16303 MiB, 12761 MiB free)
    """

    default = list

    def command(self, release: str, environment: Mapping[str, str]) -> str:
        variables = shlex.join(f"{name}={value}" for name, value in sorted(environment.items()))
        return f"env {variables} timeout 60 {release}/bin/llama-fit-params --list-devices 2>/dev/null || true"

    def process(self, output: list[str]) -> list[PlannedDevice]:
        return parse_device_list("\n".join(output))


@dataclass
class HeldMemory:
    """Memory in MiB. ``available_mib``: MemAvailable plus the RAM of model servers, 0 where unknown.

    ``vram_mib``: UUID of a GPU -> VRAM of model servers.
    """

    available_mib: int = 0
    vram_mib: dict[str, int] = field(default_factory=dict)


class HeldByServers(FactBase[HeldMemory]):
    """Memory held by model servers, which a plan may use: planned servers replace the running ones.

    Output::

        MemAvailable:   23823008 kB
        pid 39
        VmLck:	       0 kB
        RssAnon:	   44192 kB
        RssFile:	   15068 kB
        RssShmem:	       0 kB

    On a box with an NVIDIA GPU, then process, GPU and MiB::

        413, GPU-2c5c95f6-3a3d-da71-baf8-13e54a4de87c, 20998
    """

    default = HeldMemory

    def command(self) -> str:
        return (
            "grep MemAvailable /proc/meminfo; "
            "for p in $(systemctl show --property=MainPID --value 'llamarig-*.service' 2>/dev/null); do "
            "test $p -gt 0 2>/dev/null || continue; echo pid $p; "
            "grep -E '^(VmLck|RssAnon|RssFile|RssShmem):' /proc/$p/status; done; "
            "command -v nvidia-smi >/dev/null && "
            "nvidia-smi --query-compute-apps=pid,gpu_uuid,used_memory --format=csv,noheader,nounits; true"
        )

    def process(self, output: list[str]) -> HeldMemory:
        held, pids = HeldMemory(), set()
        locked = 0
        for line in output:
            if kib := re.match(r"(MemAvailable|VmLck|RssAnon|RssFile|RssShmem):\s+(\d{1,15}) kB", line):
                mib = int(kib[2]) // 1024
                if kib[1] == "VmLck":
                    locked = mib
                else:
                    # Mapped pages of files count as available unless they are locked. VmLck comes before RssFile.
                    held.available_mib += min(mib, locked) if kib[1] == "RssFile" else mib
            elif pid := re.match(r"pid (\d+)$", line):
                locked = 0
                pids.add(pid[1])
            elif (used := re.match(r"(\d+), (GPU-\S+), (\d{1,9})$", line)) and used[1] in pids:
                held.vram_mib[used[2]] = held.vram_mib.get(used[2], 0) + int(used[3])
        return held
