"""Threads of a server, and the CPUs they run on."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, PositiveInt, field_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import Flag, Setting


class Compute(Declaration):
    """What the CPU computes with."""

    threads: Annotated[
        PositiveInt | None,
        Flag(
            "--threads -t",
            "threads",
            default="one per physical core; of a hybrid CPU, per P-core",
            source="llama.cpp: common/common.cpp:201-227",
            decides_memory=True,
        ),
    ] = None
    """For generation."""
    threads_batch: Annotated[
        PositiveInt | None,
        Flag(
            "--threads-batch -tb",
            "threads",
            default="as threads",
            source="llama.cpp: common/common.cpp:1641",
            decides_memory=True,
        ),
    ] = None
    """For prompts."""
    cpu_affinity: Annotated[
        str | None, Setting("CPUAffinity=", "CPU numbers", default="every CPU", source="systemd")
    ] = None
    """As systemd writes CPUs: 0-11 or 0,2,4."""
    priority: Annotated[int, Field(ge=-1, le=3), Flag("--prio", "level", omit_default=True)] = 0
    """1 to 3: real-time scheduling of compute threads."""
    warmup: Annotated[bool, Flag("--warmup", off="--no-warmup")] = True
    """An empty run after loading, so that the first request finds weights in memory."""

    @field_validator("cpu_affinity")
    @classmethod
    def _is_a_cpu_list(cls, value: str | None) -> str | None:
        if value is None:
            return None
        for part in re.split("[, ]", value):
            cpus = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
            # systemd logs a bad list and then runs the service on every CPU.
            if cpus is None or (cpus[2] is not None and int(cpus[1]) > int(cpus[2])):
                raise ValueError("not a CPU list: write 0-11 or 0,2,4")
        return value
