"""Switch to another declared model now: stop what may not run beside it, start it, and wait until it answers."""

from __future__ import annotations

from dataclasses import replace

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_seen
from llamarig.engine.item import Commands, Seen
from llamarig.engine.jobs import SWITCH
from llamarig.engine.refuse import refuse, while_answered
from llamarig.engine.run import conclude, of_host
from llamarig.facts.units import Unit, Units
from llamarig.items.model_units import NotReadyError, ServedModels, wanted_units
from llamarig.items.switches import run_switch, switches_awaited
from llamarig.items.unit_differences import switch_job
from llamarig.items.unit_words import model_of, unit_changes, was_away
from llamarig.items.wanted_unit import Wanted, health_addresses
from llamarig.remote.shared.jobs import SwitchJob
from llamarig.remote.shared.unit_directives import directives

_OK = 200


@operation(is_idempotent=True)
@while_answered
def switched(rig: Rig, model: str, takeover: bool = False) -> Commands:
    """Start a model of this box as it is declared, and what excludes it stops; the default at boot stays.

    :param takeover: whether jobs of other runs that are in the way are stopped
    """
    this, names = state.inventory.get_host(host.name), [one.name for one in rig.models]
    if model not in names:
        if model and _is_declared_elsewhere(model):
            conclude(this, f"has no model {model}: nothing was done here")
            host.noop("another box has this model")
            return
        what = f"no model is called {model!r}" if model else "which model? write --data model=NAME"
        yield from refuse(f"{what}; this box has {', '.join(names) or 'none'}")
        return
    seen = read_seen(ServedModels().queries, rig)
    if seen.here.locked is None:
        yield from refuse(f"{rig.model_lock} lacks a model of this box: run deploy.py first, which adds it")
        return
    try:
        wanted = next(item for item in wanted_units(rig, seen) if item.model.name == model)
    except NotReadyError as error:
        yield from refuse(f"{error}; run deploy.py first")
        return
    units = seen.get(Units, health=health_addresses(rig))
    unit = units.get(wanted.unit, Unit())
    if not unit.text:
        yield from refuse(f"{model} is not installed on this box yet: run deploy.py first")
        return
    if directives(unit.text) != directives(wanted.text):
        changes = ", ".join(unit_changes(unit.text, wanted.text))
        yield from refuse(f"the unit of {model} is not as declared ({changes}): run deploy.py first, which changes it")
        return
    waited = yield from switches_awaited({wanted.unit: wanted.text}, takeover=takeover)
    if waited is None:
        return
    if unit.is_active and unit.health == _OK and not waited:
        conclude(this, f"{model} runs already, and answers")
        host.noop(f"{model} runs already")
        return
    if model not in waited:
        yield from run_switch(model, _job(rig, seen, wanted, unit), takeover=takeover)
    stopped = [model_of(peer) for peer in wanted.peers if peer in units and units[peer].is_active]
    instead = f"; {', '.join(stopped)} was stopped for it" if stopped else ""
    conclude(this, f"{model} answers{was_away(of_host().ended.get(f'{SWITCH}{model}', ''))}{instead}")


def _is_declared_elsewhere(model: str) -> bool:
    rigs = [one.data.get("rig") for one in state.inventory if one.name != host.name]
    return any(model == each.get("name") for rig in rigs if isinstance(rig, dict) for each in rig.get("models", ()))


def _job(rig: Rig, seen: Seen, wanted: Wanted, unit: Unit) -> SwitchJob:
    """The switch to a model; what starts at boot stays as it is."""
    locks = dict(zip((model.name for model in rig.models), seen.here.locked or (), strict=True))
    item = replace(wanted, running=True, enabled=unit.enabled == "enabled")
    size = sum(file.size for file in locks[wanted.model.name].files)
    return switch_job(item, rig.build_of(wanted.model), [], size)
