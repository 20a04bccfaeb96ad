"""What a plan starts from on a box: the GPUs a release sees, and what our own servers hold of memory now."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.planning.plans.device import Device, listed


class PlannableDevices(FactBase[list[Device]]):
    """The GPUs a release sees in the environment it serves in, in its own order."""

    @staticmethod
    @override
    def default() -> list[Device]:
        return []

    @override
    def command(self, release: str, environment: Mapping[str, str]) -> str:
        said = shlex.join(f"{name}={value}" for name, value in sorted(environment.items()))
        return f"env {said} timeout 60 {release}/bin/llama-fit-params --list-devices 2>/dev/null || true"

    @override
    def process(self, output: list[str]) -> list[Device]:
        return listed("\n".join(output))


@dataclass
class Held:
    """``available_mib``: MemAvailable and what our servers hold, 0 where unknown; ``vram_mib``: UUID -> theirs."""

    available_mib: int = 0
    vram_mib: dict[str, int] = field(default_factory=dict)


class HeldByOurs(FactBase[Held]):
    """RAM that is available, and VRAM, as they would be without our own servers: a plan takes their place."""

    @staticmethod
    @override
    def default() -> Held:
        return Held()

    @override
    def command(self) -> str:
        return (
            "grep MemAvailable /proc/meminfo; "
            "for p in $(systemctl show --property=MainPID --value 'llamarig-*.service' 2>/dev/null); do "
            "test $p -gt 0 2>/dev/null || continue; echo pid $p; "
            "grep -E '^(VmLck|RssAnon|RssFile|RssShmem):' /proc/$p/status; done; "
            "command -v nvidia-smi >/dev/null && "
            "nvidia-smi --query-compute-apps=pid,gpu_uuid,used_memory --format=csv,noheader,nounits; true"
        )

    @override
    def process(self, output: list[str]) -> Held:
        held, ours = Held(), set()
        locked = 0
        for line in output:
            if kib := re.match(r"(MemAvailable|VmLck|RssAnon|RssFile|RssShmem):\s+(\d{1,15}) kB", line):
                mib = int(kib[2]) // 1024
                if kib[1] == "VmLck":
                    locked = mib
                else:
                    # Pages of files are available, unless they are locked; that line comes before theirs.
                    held.available_mib += min(mib, locked) if kib[1] == "RssFile" else mib
            elif pid := re.match(r"pid (\d+)$", line):
                locked = 0
                ours.add(pid[1])
            elif (used := re.match(r"(\d+), (GPU-\S+), (\d{1,9})$", line)) and used[1] in ours:
                held.vram_mib[used[2]] = held.vram_mib.get(used[2], 0) + int(used[3])
        return held
