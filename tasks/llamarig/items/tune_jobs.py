"""The units of settings that are tried: each a declaration of its own, planned by dry runs where its memory differs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llamarig.declare.model import Model
from llamarig.declare.placement import Auto
from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_seen
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Query, Seen, query
from llamarig.facts.machine import MachineState
from llamarig.facts.processor_topology import ProcessorTopology
from llamarig.items.model_units import NotReadyError, ServedModels, wanted_units
from llamarig.items.placements import FullGpusError, PlanError, as_measured, current_inputs
from llamarig.items.plan_maker import measured, planned, prerequisite_queries, prerequisites
from llamarig.items.unit_differences import switch_job
from llamarig.measure.candidates import Box, Candidate
from llamarig.placement.declared_placement import declared_flags
from llamarig.placement.staleness import staleness
from llamarig.records.plan_file import Plan
from llamarig.records.tuning import with_settings
from llamarig.remote.shared.jobs import SwitchJob
from llamarig.render.build_flags import FlagRefusedError

_BESIDE_THE_REASON = re.compile(
    r"^model '[^']*'(?: cannot be planned)?: |: choose another build.*$|; nothing was changed$"
)
"""What messages for a declaration say beside their reason."""


class LeftOutError(Exception):
    """A setting cannot be tried; the message says why. ``is_full``: a dry run had no room beside what serves."""

    def __init__(self, message: str, *, is_full: bool = False) -> None:
        super().__init__(message)
        self.is_full = is_full

    @property
    def reason(self) -> str:
        """The message without what is said to the owner of a declaration."""
        return _BESIDE_THE_REASON.sub("", str(self))


@dataclass(frozen=True)
class Prepared:
    """A setting that can be tried. ``plan``: where the model is placed by one that differs from the current one."""

    candidate: Candidate
    job: SwitchJob
    plan: Plan | None = None


def tune_queries(rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
    """What the candidates of a model and their units depend on."""
    yield from ServedModels().queries(rig, here)
    yield from prerequisite_queries(rig, here)
    yield query(MachineState)
    yield query(ProcessorTopology)


def box_of(seen: Seen, predicts: bool) -> Box:
    """The box as the candidates see it."""
    topology, machine = seen.get(ProcessorTopology), seen.get(MachineState)
    return Box(
        online=len(topology.online),
        cores=topology.cores,
        fast_cores=topology.fast_cores,
        first=topology.first,
        fast=topology.fast,
        huge_pages=machine.huge_pages,
        predicts=predicts,
    )


def current_job(rig: Rig, seen: Seen, model: Model) -> SwitchJob:
    """How the model is started as it is declared.

    :raises LeftOutError: where it cannot be served
    """
    return _job(rig, seen, model)


def prepared(rig: Rig, seen: Seen, model: Model, candidate: Candidate) -> Prepared:
    """How the model is started with a candidate's settings.

    To be called on a reserved box: it may take dry runs.

    :raises LeftOutError: where that does not fit, or the build cannot do it
    """
    other = with_settings(model, candidate.settings)
    changed = rig.model_copy(update={"models": tuple(other if one.name == model.name else one for one in rig.models)})
    if other.build != model.build:
        seen = read_seen(tune_queries, changed)
    try:
        plan = _plan(changed, seen, other)
        if plan is not None:
            seen = replace(seen, here=replace(seen.here, plans={**seen.here.plans, model.name: plan}))
        else:
            _check_fits(rig, changed, seen, model, other)
    except (PlanError, FlagRefusedError) as error:
        raise LeftOutError(str(error), is_full=isinstance(error, FullGpusError)) from None
    return Prepared(candidate, _job(changed, seen, other), plan)


def _plan(rig: Rig, seen: Seen, model: Model) -> Plan | None:
    """A plan of these settings' own; None where the current one is theirs, or the model is not placed by a plan."""
    if not isinstance(model.serve.placement, Auto):
        return None
    given = prerequisites(rig, seen, [model]).get(model.name)
    if given is None:
        raise PlanError(f"its build {model.build!r} is not on the box: a deploy builds it")
    plan = seen.here.plans.get(model.name)
    if plan is not None and not staleness(plan, current_inputs(rig, seen, model, given.release, given.locked)):
        return None
    return planned(rig, seen, model)


def _check_fits(rig: Rig, changed: Rig, seen: Seen, model: Model, other: Model) -> None:
    """Check by a dry run that a declared placement fits with settings that change its memory.

    :raises PlanError: where it does not
    """
    given = prerequisites(changed, seen, [other]).get(other.name)
    if given is None:
        raise PlanError(f"its build {other.build!r} is not on the box: a deploy builds it")
    if changed.build_of(other).backend == "cpu" or other.serve.placement.kind in ("cpu-only", "auto"):
        return
    flags = given.release.flags
    same = other.build == model.build and declared_flags(other, flags) == declared_flags(model, flags)
    if same or "llama-fit-params" not in given.release.files:
        return
    found = measured(changed, as_measured(changed, other), given)
    if found.failed:
        raise PlanError(found.failed)
    if found.left_mib and min(found.left_mib) < 0:
        raise PlanError(f"it lacks {-min(found.left_mib)} MiB of GPU memory, by a dry run")


def _job(rig: Rig, seen: Seen, model: Model) -> SwitchJob:
    locked: Sequence[Any] = seen.here.locked or ()
    lock = dict(zip((one.name for one in rig.models), locked, strict=True))[model.name]
    try:
        item = next(one for one in wanted_units(rig, seen) if one.model.name == model.name)
    except NotReadyError as error:
        raise LeftOutError(str(error)) from None
    size = sum(file.size for file in lock.files)
    # Without a plan to step down from: what does not fit is not tried again smaller.
    return switch_job(replace(item, running=True), rig.build_of(model), [], size)
