"""What the release's llama-fit-params says on a box, and what our own servers hold there while it is asked."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.planning import layout
from tasks.planning.plans.device import Device, listed


class DryRun(FactBase[str]):
    """The words of one dry run, which takes 0.1 to 1 s; asked only while a plan is made."""

    @staticmethod
    @override
    def default() -> str:
        return ""

    @override
    def command(self, line: str) -> str:
        return f"{line} || true"

    @override
    def process(self, output: list[str]) -> str:
        return "\n".join(output)


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


class PreparedHeaders(FactBase[dict[str, Any]]):
    """What tasks/files/short_vocabulary.py prints; ``error`` in it where a header cannot be read."""

    @staticmethod
    @override
    def default() -> dict[str, Any]:
        return {}

    @override
    def command(self, directory: str, outputs: int, ubatch: int, shards: Iterable[str]) -> str:
        words = [directory, str(outputs), str(ubatch), *shards]
        return f"cd {layout.PROGRAMS} && python3 -B -m tasks.files.short_vocabulary {shlex.join(words)}"

    @override
    def process(self, output: list[str]) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(output[-1]) if output and output[-1].startswith("{") else {}
        return said


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
            "test $p -gt 0 2>/dev/null || continue; echo pid $p; grep -E '^Rss(Anon|Shmem)' /proc/$p/status; done; "
            "command -v nvidia-smi >/dev/null && "
            "nvidia-smi --query-compute-apps=pid,gpu_uuid,used_memory --format=csv,noheader,nounits; true"
        )

    @override
    def process(self, output: list[str]) -> Held:
        held, ours = Held(), set()
        for line in output:
            if kib := re.match(r"(?:MemAvailable|RssAnon|RssShmem):\s+(\d+) kB", line):
                held.available_mib += int(kib[1]) // 1024
            elif pid := re.match(r"pid (\d+)$", line):
                ours.add(pid[1])
            elif (used := re.match(r"(\d+), (GPU-\S+), (\d+)$", line)) and used[1] in ours:
                held.vram_mib[used[2]] = held.vram_mib.get(used[2], 0) + int(used[3])
        return held
