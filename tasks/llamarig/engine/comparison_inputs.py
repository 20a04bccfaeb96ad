"""Read what a comparison is given: the records on the control machine, and facts of the current host."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pyinfra.context import host

from llamarig.declare.rig import Rig
from llamarig.engine.builders import read_builder
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.hub_token import HubError
from llamarig.engine.item import Item, Query, Seen
from llamarig.engine.run import moment, of_host, read_fact, run
from llamarig.records.model_lock import locked_models
from llamarig.records.plan_file import PlanFile, read_plan_file
from llamarig.records.store import RecordError


def read_here(rig: Rig, *, fresh: bool = False) -> ControlMachine:
    """The model lock, the plan file and this package's own files. Cached until an operation changes the host.

    :param fresh: read again, because the running operation itself may have written one of the files

    Raises nothing: the item that needs a file reports why it cannot be read.
    """
    cached, key = of_host(), (moment(), rig.model_lock, rig.plan_file)
    if not fresh and cached.here is not None and cached.here[0] == key:
        here: ControlMachine = cached.here[1]
        return replace(here, wanted_releases=run().wanted_releases)
    locked, lock_problem, plan_problem = None, "", ""
    try:
        locked = locked_models(rig)
    except RecordError as error:
        lock_problem = str(error)
    file = PlanFile()
    try:
        file = read_plan_file(rig.plan_file)
    except RecordError as error:
        plan_problem = str(error)
    here = ControlMachine(
        locked=locked,
        lock_problem=lock_problem,
        plans=file.boxes.get(host.name, {}),
        measured=file.measured.get(host.name, {}),
        margins=file.margins.get(host.name, {}),
        plan_problem=plan_problem,
        programs=run().programs,
        requirements=run().requirements,
        wanted_releases=run().wanted_releases,
        deep=bool(host.data.get("deep")),
        takeover=bool(host.data.get("takeover")),
    )
    cached.here = (key, here)
    return here


def read_inputs(item: Item, rig: Rig, *, fresh: bool = False) -> Seen:
    """Everything that the comparison of an item is given.

    :param fresh: read again even what is known, after the host has been changed
    """
    seen = read_seen(item.queries, rig, fresh=fresh)
    more = item.more_inputs(rig, seen)
    here = replace(
        seen.here,
        builders={name: read_builder(name) for name in sorted(more.builders)},
        hub_token_problem=_hub_token_problem(rig) if more.hub_token else "",
    )
    return replace(seen, here=here)


def _hub_token_problem(rig: Rig) -> str:
    try:
        run().hub_tokens.of(rig.hub)
    except HubError as error:
        return str(error)
    return ""


def read_seen(queries: Callable[[Rig, ControlMachine], Iterable[Query[Any]]], rig: Rig, *, fresh: bool = False) -> Seen:
    """What these queries answer for the current host, and its records.

    :param queries: an item's ``queries``, or a function like it
    :param fresh: read again even what is known, after the host has been changed
    """
    here = read_here(rig, fresh=fresh)
    values = {query: read_fact(query.fact, fresh=fresh, **query.arguments) for query in queries(rig, here)}
    return Seen(host.name, here, values)
