"""Whether systemd and the kernel apply the sandbox of a model's unit, as its file says."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from llamarig.checks.base import Check, Finding, Severity
from llamarig.checks.box import Box
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.render import layout

KNOWN, TRIED = 249, 252
"""Versions of systemd: that which knows every directive of a unit (SocketBindDeny=, its NEWS), and the oldest tried."""


class Systemd(Check):
    """systemd leaves out directives that it does not know, with a line in its log."""

    id = "llama.systemd"
    expects = f"systemd {KNOWN} or newer, which knows every directive of the units; {TRIED} to 257 have been tried"
    remedy = "upgrade the distribution; until then `systemd-analyze security UNIT` shows what is applied"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """A note where it knows all directives, but is older than what has been tried."""
        if box.systemd is None or box.systemd >= TRIED:
            return
        yield self.finding(
            f"systemd {box.systemd}",
            f"{KNOWN} or newer, tried from {TRIED} on",
            severity=Severity.WARNING if box.systemd < KNOWN else Severity.NOTE,
        )


class ClientsLimited(Check):
    """systemd starts a unit without its IPAddressDeny= where the kernel cannot filter packets by control group."""

    id = "llama.clients"
    expects = "each unit exchanges packets with serve.clients alone; tried by a short unit that may send none"
    remedy = (
        "boot a kernel with CONFIG_CGROUP_BPF and the unified hierarchy of control groups (of a container, its host); "
        "or limit the port to your clients in a firewall, and accept this in host.accepted"
    )

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """One for each model. A note where it listens on loopback: then only its outgoing packets are not limited."""
        if box.packet_filter != "ignored":
            return
        for model in rig.models:
            beyond = is_beyond_loopback(model)
            yield self.finding(
                "every address can connect to it, and be reached from it" if beyond else "it may reach other machines",
                "only its clients" if beyond else "only this box",
                about=layout.unit_name(model.name),
                severity=Severity.WARNING if beyond else Severity.NOTE,
            )


def is_beyond_loopback(model: Model) -> bool:
    """Whether its server listens to other machines."""
    return not ipaddress.ip_address(model.serve.host).is_loopback
