"""What a box applies of the sandbox of units: systemd leaves out in silence what it, or the kernel, does not know."""

from __future__ import annotations

from typing import Literal

from pyinfra.api.facts import FactBase

from llamarig.facts.output import whole_number

Filtering = Literal["", "applied", "ignored"]
"""Empty where that could not be tried: without systemd, or without root's rights."""

# A packet to the discard port of the box itself. Of UDP, the kernel tells the sender at once that it was filtered; a
# connection of TCP would wait.
_SEND = "echo >/dev/udp/127.0.0.1/9 && echo ignored || echo applied"


class PacketFilter(FactBase[Filtering]):
    """Whether systemd limits the packets of units here: a short unit with `IPAddressDeny=any` tries to send one.

    Output::

        ignored
    """

    @staticmethod
    def default() -> Filtering:
        return ""

    def command(self) -> str:
        return (
            "systemd-run --quiet --no-ask-password --pipe --wait --collect --service-type=exec "
            "--property=IPAddressDeny=any --property=DynamicUser=yes --property=RuntimeMaxSec=20 "
            f"-- /bin/bash -c '{_SEND}' 2>/dev/null; true"
        )

    def process(self, output: list[str]) -> Filtering:
        last = output[-1].strip() if output else ""
        if last == "applied":
            return "applied"
        return "ignored" if last == "ignored" else ""


class SystemdVersion(FactBase[int | None]):
    """Version of the running systemd; None where there is none.

    Output::

        systemd 257 (257.13-1~deb13u1)
    """

    def command(self) -> str:
        return "systemctl --version 2>/dev/null | head -n 1"

    @staticmethod
    def default() -> int | None:
        return None

    def process(self, output: list[str]) -> int | None:
        words = " ".join(output[:1]).split()
        return whole_number(words[1]) if len(words) > 1 and words[0] == "systemd" else None
