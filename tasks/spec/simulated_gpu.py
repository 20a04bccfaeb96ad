"""A GPU that is not there, to plan for: dry runs see it through a backend that holds no memory."""

from __future__ import annotations

from pydantic import Field

from tasks.spec.base import Declaration


class SimulatedGpu(Declaration):
    """Name and memory in MiB, as ``llama-server --list-devices`` prints them on a box that has it."""

    name: str = Field(pattern=r"^[^:,]+$", max_length=60)
    total_mib: int = Field(ge=1)
    free_mib: int = Field(ge=1)
