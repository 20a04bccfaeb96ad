"""Threads of a server, and the CPUs they run on."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import LLAMA_CPP, Flag, Setting


class Compute(Declaration):
    """What the CPU computes with."""

    threads: Annotated[
        int | None,
        Field(ge=1, description="for generation"),
        Flag(
            "--threads",
            aliases=("-t",),
            unit="threads",
            default="one per physical core; of a hybrid CPU, per P-core",
            source="llama.cpp: common/common.cpp:201-227",
            env=("LLAMA_ARG_THREADS",),
            decides_memory=True,
        ),
    ] = None
    threads_batch: Annotated[
        int | None,
        Field(ge=1, description="for prompts"),
        Flag(
            "--threads-batch",
            aliases=("-tb",),
            unit="threads",
            default="as threads",
            source="llama.cpp: common/common.cpp:1641",
            decides_memory=True,
        ),
    ] = None
    cpu_affinity: Annotated[
        str | None,
        Field(description="as systemd writes CPUs: 0-11 or 0,2,4"),
        Setting("CPUAffinity=", unit="CPU numbers", default="every CPU", source="systemd"),
    ] = None
    priority: Annotated[
        int,
        Field(ge=-1, le=3, description="1 to 3: real-time scheduling of compute threads"),
        Flag("--prio", unit="level", source=LLAMA_CPP, omit_default=True),
    ] = 0
    warmup: Annotated[
        bool,
        Field(description="an empty run after loading, so that the first request finds weights in memory"),
        Flag("--warmup", off="--no-warmup", unit="-", source=LLAMA_CPP),
    ] = True

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
