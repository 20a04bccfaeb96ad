"""Drop-ins of model units, as `systemctl edit` writes them: a deploy can neither see through them nor replace them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Item, Query, Seen, Severity, query
from llamarig.facts.units import DropIn, Unit, Units
from llamarig.items.wanted_unit import health_addresses
from llamarig.render import layout

ACCEPTED = "drop-in"
"""Name by which `serve.accept` takes the drop-ins of a model."""


class NoUnitOverrides(Item):
    """No model's unit is overridden by a drop-in that its owner has not accepted."""

    name = "Unit overrides"
    check = "llama.drop-ins"
    severity = Severity.WARNING

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The model units."""
        yield query(Units, health=health_addresses(rig))

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each drop-in. One that ends with the next boot and leaves the command line alone stops no deploy."""
        units = seen.get(Units, health=health_addresses(rig))
        return [
            _difference(layout.unit_name(model.name), drop_in)
            for model in rig.models
            if ACCEPTED not in model.serve.accept
            for drop_in in units.get(layout.unit_name(model.name), Unit()).drop_ins
        ]


def _difference(unit: str, drop_in: DropIn) -> Difference:
    set_by = f"{drop_in.path} sets {', '.join(drop_in.settings) or 'nothing'}"
    remedy = f"declare what you need and run `systemctl revert {unit}` on the box"
    accept = f'accept={{"{ACCEPTED}": "your reason"}} in serve'
    expected = "the declaration alone"
    if drop_in.path.startswith("/run/") and "ExecStart" not in drop_in.settings:
        remedy = f"{remedy}, or leave it: it ends with the next boot ({accept} accepts it)"
        return Difference(unit, expected, set_by, remedy, by_deploy=False, stops_deploy=False)
    return Difference.refusal_of(
        unit, expected, f"{unit} is overridden: {set_by}: {remedy}, or {accept}; nothing was changed"
    )
