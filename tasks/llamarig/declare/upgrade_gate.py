"""The gate of upgrades: a new release that is slower than the one before does not stay."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llamarig.declare.base import Declaration
from llamarig.declare.flags import Setting


class UpgradeGate(Declaration):
    """A switch of a running model to another release is timed, and undone where that is slower beyond doubt.

    It has to be slower by more than ``slower_than_percent`` with its whole confidence interval, in pairs of starts of
    both releases. Placement and load mode may differ; where other flags change with the release, nothing is compared.
    """

    slower_than_percent: Annotated[
        float,
        Field(ge=1, le=50),
        Setting(
            "the switch to another release",
            "%",
            source="measured: from start to start the same flags are within 5 % of their median (tests/gpu/RESULTS.md)",
        ),
    ] = 5
    """How much longer a prompt and an answer may take."""
