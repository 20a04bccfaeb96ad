"""Read the records of the current host on the control machine."""

from __future__ import annotations

from dataclasses import replace

from pyinfra.context import host

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.run import moment, of_host, run
from llamarig.records.model_lock import locked_models
from llamarig.records.plan_file import read_plan_file
from llamarig.records.store import RecordError


def read_here(rig: Rig) -> ControlMachine:
    """The model lock, the plan file and this package's own files. Cached until an operation changes the host.

    Raises nothing: the item that needs a file reports why it cannot be read.
    """
    cached, key = of_host(), (moment(), rig.model_lock, rig.plan_file)
    if cached.here is not None and cached.here[0] == key:
        here: ControlMachine = cached.here[1]
        return replace(here, wanted_releases=run().wanted_releases)
    locked, lock_problem, plan_problem = None, "", ""
    try:
        locked = locked_models(rig)
    except RecordError as error:
        lock_problem = str(error)
    plans, measured = {}, {}
    try:
        file = read_plan_file(rig.plan_file)
        plans, measured = file.boxes.get(host.name, {}), file.measured.get(host.name, {})
    except RecordError as error:
        plan_problem = str(error)
    here = ControlMachine(
        locked=locked,
        lock_problem=lock_problem,
        plans=plans,
        measured=measured,
        plan_problem=plan_problem,
        programs=run().programs,
        requirements=run().requirements,
        wanted_releases=run().wanted_releases,
        deep=bool(host.data.get("deep")),
    )
    cached.here = (key, here)
    return here
