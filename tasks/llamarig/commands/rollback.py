"""Return to the previous unit text that has answered, with the release and files that it names."""

from __future__ import annotations

from pyinfra.api.operation import operation
from pyinfra.context import host

from llamarig.declare.rig import Rig
from llamarig.engine.item import Commands
from llamarig.engine.refuse import refuse
from llamarig.engine.run import read_fact
from llamarig.engine.screen import say
from llamarig.facts.start_records import PreviousProofs
from llamarig.facts.units import Units
from llamarig.items.switches import run_switch, switches_awaited
from llamarig.items.wanted_unit import health_addresses
from llamarig.render import layout


@operation(is_idempotent=False, idempotent_notice="a second rollback returns to where the first one started")
def rolled_back(rig: Rig, only: str | None = None) -> Commands:
    """Switch every running model of the box, or ``only`` one, back to its unit before the last switch."""
    if only is not None and only not in {model.name for model in rig.models}:
        yield from refuse(f"no model is called {only!r}; this box has {', '.join(model.name for model in rig.models)}")
        return
    names = [only] if only is not None else [model.name for model in rig.models]
    units, previous = read_fact(Units, health=health_addresses(rig)), host.get_fact(PreviousProofs)
    texts = {unit: record.text for unit, record in previous.items() if unit in map(layout.unit_name, names)}
    waited = yield from switches_awaited(texts)
    if waited is None:
        return
    if waited:
        # An interrupted rollback has finished the models up to the one it was switching. A second rollback of those
        # would return to where the first one started.
        units, previous = read_fact(Units, fresh=True, health=health_addresses(rig)), host.get_fact(PreviousProofs)
        names = names[max(names.index(name) for name in waited) + 1 :]
    running = [name for name in names if (unit := units.get(layout.unit_name(name))) is not None and unit.is_active]
    found = {name: previous[layout.unit_name(name)] for name in running if layout.unit_name(name) in previous}
    if waited and not found:
        say(host, "the running switch was this rollback: nothing is left to do")
        return
    if not found:
        yield from refuse("nothing to go back to: no running model has an earlier unit that answered")
        return
    for name, record in found.items():
        say(host, f"{name}: returning to the unit that answered on {record.proved_at or 'an unknown date'}")
        yield from run_switch(name, record.job)
    commits = sorted({record.job.commit for record in found.values()})
    say(host, f"the next deploy reverts this unless you declare llama.cpp {', '.join(commits)}")
