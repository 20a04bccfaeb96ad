"""Warn at every deploy if systemd or the kernel does not apply the sandbox of units."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llamarig.checks.box import Box
from llamarig.checks.registry import findings
from llamarig.checks.report import lines
from llamarig.checks.sandbox import ClientsLimited, Systemd, is_beyond_loopback
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Item, Query, Seen, query
from llamarig.facts.sandbox_support import PacketFilter, SystemdVersion


class SandboxNote(Item):
    """The sandbox of units is applied; a deploy changes nothing about it."""

    name = "Sandbox"
    audited = False  # llama.systemd and llama.clients report it

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The version of systemd; and whether packets are filtered, where that matters to a model."""
        yield query(SystemdVersion)
        if any(map(is_beyond_loopback, rig.models)):
            yield query(PacketFilter)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """None: systemd and the kernel decide."""
        return []

    def notes(self, rig: Rig, seen: Seen) -> Iterable[str]:
        """The audit's findings that fail it."""
        packet_filter = seen.get(PacketFilter) if any(map(is_beyond_loopback, rig.models)) else ""
        box = Box(systemd=seen.get(SystemdVersion), packet_filter=packet_filter)
        for finding in findings([Systemd(), ClientsLimited()], rig, box):
            if finding.fails:
                yield from lines(finding)
