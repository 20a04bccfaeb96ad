"""A GPU to plan for that the box does not have; dry runs see it through a backend without memory."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llamarig.declare.base import Declaration, Form


class SimulatedGpu(Declaration):
    """Name and memory in MiB, as ``llama-server --list-devices`` prints them on a box that has it."""

    name: Annotated[str, Form("a name without a colon or comma", "RTX 5090")] = Field(
        pattern=r"^[^:,]+$", max_length=60
    )
    """A name for the plan to show: RTX 5090."""
    total_mib: int = Field(ge=1)
    """Its memory."""
    free_mib: int = Field(ge=1)
    """What other programs leave free of it."""
