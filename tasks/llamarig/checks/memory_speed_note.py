"""Warn at every deploy if the RAM runs below its rated speed, which only the firmware can fix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llamarig.checks.base import Severity
from llamarig.checks.box import Box
from llamarig.checks.memory import MemorySpeed
from llamarig.checks.registry import findings
from llamarig.checks.report import lines
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Item, Query, Seen, query
from llamarig.facts.ram import MemoryModules


class MemorySpeedNote(Item):
    """The RAM runs at its declared or rated speed; a deploy changes nothing about it."""

    name = "RAM speed"
    audited = False  # memory.speed reports it

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The memory modules."""
        yield query(MemoryModules)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """None: the firmware decides."""
        return []

    def notes(self, rig: Rig, seen: Seen) -> Iterable[str]:
        """The audit's finding, unless the owner has accepted it."""
        found = findings([MemorySpeed()], rig, Box(ram=seen.get(MemoryModules)))
        for finding in found[:1]:
            if not finding.accepted and (finding.severity is Severity.WARNING or finding.fails):
                yield from lines(finding)
