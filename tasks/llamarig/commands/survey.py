"""Look at the boxes of the inventory, and write the declaration of each kind of hardware that none declares yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import click
from pydantic import ValidationError
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from llamarig.commands.read_hardware import read_hardware
from llamarig.commands.survey_files import Written, file_of, owners_groups, taken_names, write_files
from llamarig.declare.mistakes import explain
from llamarig.declare.rig import Rig
from llamarig.engine.item import Commands
from llamarig.engine.refuse import refuse
from llamarig.engine.run import conclude, run
from llamarig.survey.cards import nvidia_cards, other_cards
from llamarig.survey.comparison import differences
from llamarig.survey.destinations import Undeclared
from llamarig.survey.hardware import Hardware
from llamarig.survey.propose import proposal
from llamarig.survey.screen import declared_box, new_box
from llamarig.survey.words import cards_words

_HOME = "inventory/home.py"


@dataclass
class SurveyRun:
    """What this run has read and written. ``written`` is None until the first host without a declaration is looked at,
    when all hosts are read."""

    hardware: dict[str, Hardware] = field(default_factory=dict)
    """Host -> what was read of it."""
    written: list[Written] | None = None


def survey() -> None:
    """Read the current host, and add the operation that says what was found.

    tasks/survey.py calls this for each host while pyinfra prepares: all hosts are read before a file is written.
    """
    run().only_looks = True
    found = read_hardware()
    if found is not None:
        _survey_run().hardware[host.name] = found
        # Of a run that ends here, with --dry or where the owner does not go on.
        conclude(state.inventory.get_host(host.name), "read, and nothing was written: leave --dry out")
    surveyed(name="Survey")


def _survey_run() -> SurveyRun:
    this = run()
    if this.survey is None:
        this.survey = SurveyRun()
    found: SurveyRun = this.survey
    return found


@operation()
def surveyed() -> Commands:
    """Say what differs from the host's declaration, or write one for all hosts of its kind."""
    if not state.is_executing:
        return
    this = state.inventory.get_host(host.name)
    hardware = _survey_run().hardware.get(this.name)
    if hardware is None:
        yield FunctionCommand(lambda state, host: False, [], {})  # it has been reported
    elif not hardware.platform.machine:
        yield from refuse("this box does not answer `uname -m`, so nothing is written for it: a survey is for Linux")
    elif this.data.get("rig") is None:
        yield from _of_new_box(this)
    else:
        yield from _of_declared_box(this, hardware)


def _of_declared_box(this: Host, hardware: Hardware) -> Commands:
    try:
        rig = Rig.model_validate(this.data.get("rig"))
    except ValidationError as error:
        yield from refuse(explain(error, Rig, "rig", this.name))
        return
    cards = cards_words((*nvidia_cards(hardware), *other_cards(hardware)))
    data = this.inventory.group_data
    groups = [group for group in this.groups if "rig" in data.get(group, {})]
    where = file_of(groups[-1]) if groups and "rig" not in this.host_data else "the inventory"
    conclude(this, *declared_box(hardware, differences(rig, hardware), cards, where))
    host.noop("it is declared")


def _of_new_box(this: Host) -> Commands:
    box, written = _new_box_of(this)
    conclude(this, *new_box(box, written.destination, file=written.file, inventory=_inventory_name()))
    if written.problem:
        yield from refuse(written.problem)
        return
    host.noop("read")


def _new_box_of(this: Host) -> tuple[Undeclared, Written]:
    """The box and the file for it. The files for all boxes are written by the first call."""
    path, found = Path(_inventory_name()), _survey_run()
    boxes = [
        Undeclared(one.name, owners_groups(one, path), hardware, proposal(hardware), bool(one.host_data))
        for one in state.inventory
        if one.data.get("rig") is None
        and (hardware := found.hardware.get(one.name)) is not None
        and hardware.platform.machine
    ]
    if found.written is None:
        found.written = write_files(boxes, taken_names(state.inventory, path))
    written = next(one for one in found.written if this.name in one.destination.hosts)
    return next(box for box in boxes if box.host == this.name), written


def _inventory_name() -> str:
    """The inventory file of the command line; the usual one where host names were given in its place."""
    context = click.get_current_context(silent=True)
    name = str(context.params.get("inventory", "")) if context is not None else ""
    return name if name.endswith(".py") else _HOME
