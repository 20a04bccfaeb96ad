"""Measurements: they take seconds and load the box, so they are made on request only."""

from __future__ import annotations

import math
import re

from pyinfra.api.facts import FactBase

from llamarig.facts.output import json_object
from llamarig.remote.shared.jobs import Timing
from llamarig.render import layout

_LEAST_MIB = 64
"""A shorter read measures latency rather than throughput."""


class MemoryBandwidthMeasured(FactBase[float | None]):
    """GB/s of memory copies on all CPUs, reads plus writes; None where it cannot be measured. Takes 3 s.

    Output::

        bytes 103347650560 seconds 2.0255614500001684
    """

    def command(self) -> str:
        return (
            f"cd {layout.PROGRAMS} && {layout.PYTHON} -B -m llamarig.remote.serve.memory_bandwidth 2>/dev/null || true"
        )

    def process(self, output: list[str]) -> float | None:
        match = re.search(r"bytes (\d{1,18}) seconds (\d{1,6}\.\d+)", " ".join(output))
        return int(match[1]) / float(match[2]) / 1e9 if match and float(match[2]) else None


class ReadSpeedMeasured(FactBase[float | None]):
    """MB/s of reading the first 2 GiB of the largest model file, without the page cache. None below 64 MiB.

    Output::

        209715200 bytes (210 MB, 200 MiB) copied, 0.352389 s, 595 MB/s
    """

    ends_within_s = 120
    """Its command ends the measurement after 60 s."""

    def command(self) -> str:
        return (
            "export LC_ALL=C; "
            f"f=$(find -H {layout.MODELS} -type f -name '*.gguf' -printf '%s %p\\n' 2>/dev/null | sort -n | tail -n 1 "
            "| cut -d' ' -f2-); "
            'test -n "$f" && timeout 60 dd if="$f" of=/dev/null bs=4M count=512 iflag=direct 2>&1 | tail -n 1; true'
        )

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
    """Timing of one request of known length to a running model server. Takes as long as the request.

    Output::

        {"prompt_tokens": 256, "generated_tokens": 32, "prompt_per_second": 38717.48336358137, ..., "alone": true}
    """

    ends_within_s = 6 * 3600
    """A long prompt, by a processor alone."""

    @staticmethod
    def default() -> Timing:
        return Timing(problem="the box has not reported anything")

    def command(self, unit: str, prompt_tokens: int, generated_tokens: int) -> str:
        """:param prompt_tokens: 0 for the default of remote/serve/bench_request.py"""
        return (
            f"cd {layout.PROGRAMS} && "
            f"{layout.PYTHON} -B -m llamarig.remote.serve.bench_request {unit} {prompt_tokens} {generated_tokens}"
            " || true"
        )

    def process(self, output: list[str]) -> Timing:
        line = next((line for line in reversed(output) if line.startswith("{")), "")
        timing = Timing.from_stored(json_object(line))
        if timing.problem:
            return timing
        # A server for embeddings generates nothing.
        rates = (timing.prompt_per_second, *((timing.generation_per_second,) if timing.generated_tokens else ()))
        if not all(0 < rate < math.inf for rate in rates):
            return Timing(problem=f"the box answered {' '.join(output)[-200:]!r} where a timing was expected")
        return timing
