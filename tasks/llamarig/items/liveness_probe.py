"""The liveness probe of a box: its two unit files and its running timer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyinfra.api.command import StringCommand

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.engine.upload import upload
from llamarig.facts.unit_files import UnitFile, UnitFiles
from llamarig.render import layout
from llamarig.render.liveness_probe import SERVICE, TIMER, service_text, timer_text


class LivenessProbe(Item):
    """A timer restarts servers that answer /health but complete no prompt, unless host.liveness_probe is False."""

    name = "Liveness probe"

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The probe's two units."""
        yield query(UnitFiles, names=[SERVICE, TIMER])

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """At most one for each unit file, for what systemd has loaded, and for the timer."""
        found = seen.get(UnitFiles, names=[SERVICE, TIMER])
        timer = found.get(TIMER, UnitFile())
        if not rig.host.liveness_probe:
            return [Difference(TIMER, "stopped and disabled", "running or enabled")] * (timer.active or timer.enabled)
        differences = [
            Difference(
                unit,
                "the unit that this version writes",
                "missing or different",
                texts=(found.get(unit, UnitFile()).text, text),
            )
            for unit, text in _texts(rig).items()
            if found.get(unit, UnitFile()).text != text
        ]
        if any(unit.needs_reload for unit in found.values()):
            differences.append(Difference("systemd", "the probe's units as on the disk", "a daemon-reload is needed"))
        if not (timer.active and timer.enabled):
            differences.append(Difference(TIMER, "running and enabled", "stopped or disabled"))
        return differences

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Write the units, reload systemd, and restart the timer if it changed."""
        if not rig.host.liveness_probe:
            yield StringCommand("systemctl", "--quiet", "disable", "--now", TIMER)
            return
        wrong = [difference.what for difference in differences]
        texts = _texts(rig)
        for unit in (unit for unit in wrong if unit in texts):
            yield upload(texts[unit], f"{layout.UNITS}/{unit}")
        yield StringCommand("systemctl", "daemon-reload")
        if TIMER in wrong:
            yield StringCommand("systemctl", "--quiet", "enable", TIMER)
            yield StringCommand("systemctl", "restart", TIMER)


def _texts(rig: Rig) -> dict[str, str]:
    return {SERVICE: service_text(model.serve.host for model in rig.models), TIMER: timer_text()}
