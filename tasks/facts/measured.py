"""What can only be measured, and only when asked: it takes seconds, and the box's whole attention."""

from __future__ import annotations

import math
import re

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.json_text import json_object
from tasks.planning import layout
from tasks.planning.bench import Timing

_LEAST_MIB = 64
"""A shorter read says more about latency than about speed."""


class MemoryBandwidthMeasured(FactBase[float | None]):
    """GB/s of memory copies on all CPUs at once, read and written together; takes 3 s. None where not measured."""

    @override
    def command(self) -> str:
        return f"cd {layout.PROGRAMS} && {layout.PYTHON} -B -m tasks.files.memory_copies 2>/dev/null || true"

    @override
    def process(self, output: list[str]) -> float | None:
        match = re.search(r"bytes (\d{1,18}) seconds (\d{1,6}\.\d+)", " ".join(output))
        return int(match[1]) / float(match[2]) / 1e9 if match and float(match[2]) else None


class ReadSpeedMeasured(FactBase[float | None]):
    """MB/s of the first 2 GiB of the largest model file, past the page cache. None where there is none of 64 MiB."""

    @override
    def command(self) -> str:
        return (
            "export LC_ALL=C; "
            f"f=$(find -H {layout.MODELS} -type f -name '*.gguf' -printf '%s %p\\n' 2>/dev/null | sort -n | tail -n 1 "
            "| cut -d' ' -f2-); "
            'test -n "$f" && timeout 60 dd if="$f" of=/dev/null bs=4M count=512 iflag=direct 2>&1 | tail -n 1; true'
        )

    @override
    def process(self, output: list[str]) -> float | None:
        match = re.search(r"(\d{1,18}) bytes .*copied, ([\d.]{1,12}) s,", " ".join(output))
        if match is None or int(match[1]) < _LEAST_MIB * 1024**2:
            return None
        try:
            seconds = float(match[2])
        except ValueError:
            return None
        return int(match[1]) / seconds / 1e6 if seconds > 0 else None


class RequestTimed(FactBase[Timing]):
    """One request of known length to a running model server, in the server's own timings; as long as that takes."""

    @staticmethod
    @override
    def default() -> Timing:
        return Timing(problem="the box did not say anything")

    @override
    def command(self, unit: str, prompt_tokens: int, generated_tokens: int) -> str:
        """``prompt_tokens`` 0: as usual (tasks/files/bench_request.py)."""
        return (
            f"cd {layout.PROGRAMS} && "
            f"{layout.PYTHON} -B -m tasks.files.bench_request {unit} {prompt_tokens} {generated_tokens} || true"
        )

    @override
    def process(self, output: list[str]) -> Timing:
        line = next((line for line in reversed(output) if line.startswith("{")), "")
        said = json_object(line)
        try:
            if "problem" in said:
                return Timing(problem=str(said["problem"]))
            timing = Timing(
                prompt_tokens=int(said["prompt_tokens"]),
                generated_tokens=int(said["generated_tokens"]),
                prompt_per_second=float(said["prompt_per_second"]),
                generation_per_second=float(said["generation_per_second"]),
                alone={True: True, False: False}.get(said["alone"]),
            )
        except (ValueError, KeyError, TypeError, OverflowError):
            timing = Timing()
        if not (0 < timing.prompt_per_second < math.inf and 0 < timing.generation_per_second < math.inf):
            return Timing(problem=f"the box answered {' '.join(output)[-200:]!r} where a timing was expected")
        return timing
