"""Show what runs on the boxes now; change nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from llamarig.commands.status_screen import BoxState, status_lines
from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_here
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.converge import compare
from llamarig.engine.item import Commands, Query, query
from llamarig.engine.refuse import while_answered
from llamarig.engine.run import ask, conclude, of_host, read_all, read_fact, run
from llamarig.facts.gpus import Gpus
from llamarig.facts.jobs import Jobs, RunningJobs
from llamarig.facts.machine import MachineState
from llamarig.facts.plannable_devices import HeldByServers
from llamarig.facts.server_activity import ServerActivity
from llamarig.facts.unit_files import UnitFile, UnitFiles
from llamarig.facts.units import Units
from llamarig.items.all_items import ITEMS
from llamarig.items.wanted_unit import health_addresses
from llamarig.render import front

_FACTS = (Gpus, HeldByServers, MachineState, RunningJobs, ServerActivity)


def queries_of_status(rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
    """Every query of the command: of its screen, and of all items, which say whether the box is as declared."""
    yield from (query(fact) for fact in _FACTS)
    yield query(Units, health=health_addresses(rig))
    for item in ITEMS:
        if item.audited:
            yield from item.queries(rig, here)


@operation()
@while_answered
def shown(rig: Rig) -> Commands:
    """Read the box with one command, or two where jobs run, and keep its lines for the closing block."""
    if not state.is_executing:
        return
    run().only_looks = True
    here = read_here(rig)
    read_all(queries_of_status(rig, here))
    if of_host().unanswered:  # it has been reported
        yield FunctionCommand(lambda state, host: False, [], {})
        return
    running = read_fact(RunningJobs)
    units = read_fact(Units, health=health_addresses(rig))
    activity = read_fact(ServerActivity)
    progress = ask(Jobs, names=sorted(running)) if running else {}
    box = BoxState(
        models=rig.models,
        units=units,
        activity=activity,
        held=read_fact(HeldByServers),
        plans=here.plans,
        sizes_mib={
            model.name: sum(file.size for file in locked.files) >> 20
            for model, locked in zip(rig.models, here.locked or (), strict=False)
        },
        gpus=read_fact(Gpus),
        total_ram_kib=read_fact(MachineState).total_kib,
        running=running,
        jobs=progress,
        front=f"{rig.front.host}:{rig.front.port}" if rig.front is not None else "",
        front_runs=read_fact(UnitFiles, names=list(front.UNITS)).get(front.SERVICE, UnitFile()).active,
    )
    drift = sum(map(len, compare(ITEMS, rig).values()))
    headline = (
        f"drift: {'one difference' if drift == 1 else f'{drift} differences'} from its declaration (see tasks/audit.py)"
        if drift
        else "as declared"
    )
    conclude(state.inventory.get_host(host.name), headline, *status_lines(box))
    host.noop("read")
