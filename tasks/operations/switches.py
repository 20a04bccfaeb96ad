"""Switches of model units: one at a time on a box, waited for where it is ours, never stopped."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from pyinfra.api.command import PyinfraCommand
from pyinfra.context import host

from tasks.facts.jobs import RunningJobs
from tasks.operations import Commands
from tasks.operations.jobs import await_jobs, none_runs, start_job
from tasks.operations.refuse import refuse
from tasks.planning.switch_under_way import ALL_SWITCHES, in_the_way, is_wanted, model_of, switch_name, switches

# Putting back what served takes the time of one stop and one start; a shutdown of the box waits for it too.
_STOPS = "TimeoutStopSec=120"


def switches_awaited(texts: Mapping[str, str]) -> Generator[PyinfraCommand, None, set[str] | None]:
    """Wait for a switch that is under way and ends in what is wanted; refuse while another one is.

    :param texts: unit -> the text that is wanted of it
    :return: models whose switch was waited for; None where this was refused
    """
    running = host.get_fact(RunningJobs)
    found = switches(running)
    if foreign := [in_the_way(name, job) for name, job in found.items() if not is_wanted(job, texts)]:
        yield from refuse("; ".join(foreign))
        return None
    for name in found:
        host.log(f"the switch of {model_of(name)} is already under way on the box")
    if found:
        yield await_jobs({name: model_of(name) for name in found})
    return {model_of(name) for name in found}


def run_switch(model: str, job: dict[str, Any]) -> Commands:
    """Switch a model's unit and wait for the end; fails where another switch has just begun."""
    name = switch_name(model)
    yield none_runs(ALL_SWITCHES)
    yield from start_job(name, "switch_unit", job, sandboxed=False, properties=[_STOPS], stops_another=False)
    yield await_jobs({name: model})
