"""Return to the unit text of each model that answered before, with the release and files that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_seen
from llamarig.engine.item import Commands
from llamarig.engine.jobs import SWITCH
from llamarig.engine.refuse import refuse, while_answered
from llamarig.engine.run import ask, conclude, of_host, read_fact
from llamarig.engine.screen import say
from llamarig.engine.upload import upload
from llamarig.facts.start_records import PreviousProofs, Proofs
from llamarig.facts.units import Unit, Units
from llamarig.items.model_units import NotReadyError, ServedModels, wanted_units
from llamarig.items.switches import run_switch, switches_awaited
from llamarig.items.unit_words import started, unit_changes, was_started
from llamarig.items.wanted_unit import exclusive_peers, health_addresses
from llamarig.remote.shared.jobs import StartRecord, SwitchJob
from llamarig.remote.shared.unit_directives import directives, directives_sha256
from llamarig.render import layout


@operation(is_idempotent=False, idempotent_notice="a second rollback returns to where the first one started")
@while_answered
def rolled_back(rig: Rig, only: str | None = None, takeover: bool = False) -> Commands:
    """Return every model of the box, or ``only`` one, to the unit that answered before the one it has.

    A model that runs is switched; of one that does not, the unit is replaced.
    """
    if only is not None and only not in {model.name for model in rig.models}:
        yield from refuse(f"no model is called {only!r}; this box has {_names(rig)}")
        return
    this = state.inventory.get_host(host.name)
    names = [only] if only is not None else [model.name for model in rig.models]
    units, previous = read_fact(Units, health=health_addresses(rig)), ask(PreviousProofs)
    texts = {unit: record.text for unit, record in previous.items() if unit in map(layout.unit_name, names)}
    waited = yield from switches_awaited(texts, takeover=takeover)
    if waited is None:
        return
    if waited:
        # An interrupted rollback has finished the models up to the one it was switching. A second rollback of those
        # would return to where the first one started.
        units, previous = read_fact(Units, fresh=True, health=health_addresses(rig)), ask(PreviousProofs)
        names = names[max(names.index(name) for name in waited) + 1 :]
    current = ask(Proofs)
    found = earlier_starts(names, units, current, previous)
    if waited and not found:
        conclude(this, "the running switch was this rollback: nothing is left to do")
        return
    if not found:
        which = only or "no model"
        yield from refuse(f"nothing to go back to: {which} has {'no' if only else 'an'} earlier unit that answered")
        return
    declared, lines = _declared(rig), []
    for name, record in found.items():
        unit = units[layout.unit_name(name)]
        changes = f"{name}: {', '.join(unit_changes(unit.text, record.text))}"
        then = started(unit) if unit.is_active else "it does not run, and is not started"
        proved = f"answered on {record.proved_at or 'an unknown date'}"
        if state.is_executing:
            say(host, f"{changes}, which {proved}; {then}")
        yield from run_switch(name, job_back_to(record, rig, name, unit), takeover=takeover)
        yield upload(_marker(record), f"{layout.PROOFS}/{layout.unit_name(name)}.rolled-back")
        done = was_started(f"{changes}; {then}", of_host().ended.get(f"{SWITCH}{name}", ""))
        lines += [done, f"    {_next_deploy(record, declared.get(name), name)}"]
    conclude(this, "returned to what answered before:", *lines)


def earlier_starts(
    names: list[str],
    units: Mapping[str, Unit],
    current: Mapping[str, StartRecord],
    previous: Mapping[str, StartRecord],
) -> dict[str, StartRecord]:
    """Model -> the last start that answered with another unit than the model has now, of those that have one.

    A unit that was replaced while the model did not run has not answered: the last start is then the current record.

    :param current: unit -> the record of its last start
    :param previous: unit -> the one before
    """
    found = {}
    for name in names:
        unit = units.get(layout.unit_name(name), Unit())
        records = (current.get(layout.unit_name(name)), previous.get(layout.unit_name(name)))
        earlier = [one for one in records if one is not None and directives(one.text) != directives(unit.text)]
        if unit.text and earlier:
            found[name] = earlier[0]
    return found


def job_back_to(record: StartRecord, rig: Rig, name: str, unit: Unit) -> SwitchJob:
    """The switch to an earlier start of a model. What excludes it, and what starts at boot, stays as it is now.

    :param unit: as it is now; one that does not run is not started
    """
    model = next(one for one in rig.models if one.name == name)
    return replace(
        record.job,
        peers=exclusive_peers(rig, model),
        retired=(),
        start=unit.is_active,
        enable=unit.enabled == "enabled",
    )


def _declared(rig: Rig) -> dict[str, str]:
    """Model -> the text of its unit as declared; empty where it is not known yet."""
    seen = read_seen(ServedModels().queries, rig)
    if seen.here.locked is None:
        return {}
    try:
        return {item.model.name: item.text for item in wanted_units(rig, seen)}
    except NotReadyError:
        return {}


def _next_deploy(record: StartRecord, declared: str | None, name: str) -> str:
    """What the next deploy makes of this."""
    if declared is None:
        return f"the next deploy reverts this unless you declare llama.cpp {record.job.commit} for {name}"
    if directives(record.text) == directives(declared):
        return "this is what is declared: a deploy leaves it"
    changes = ", ".join(unit_changes(record.text, declared))
    return f"declared is {changes}: the next deploy goes forward again, unless you declare what it was before"


def _marker(record: StartRecord) -> str:
    """By which an audit tells that the unit was rolled back on purpose, as long as it has these directives."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"RolledBackAt={when}\nRolledBackTo={directives_sha256(record.text)}\n"


def _names(rig: Rig) -> str:
    return ", ".join(model.name for model in rig.models) or "none"
