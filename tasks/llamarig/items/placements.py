"""What each model is served with on this box: its plan and the load mode of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llamarig.declare.model import Model
from llamarig.declare.placement import Auto
from llamarig.declare.rig import Rig
from llamarig.declare.serve.weights import OFFLOAD_MIN_BATCH
from llamarig.engine.item import Query, Seen, query
from llamarig.facts.capacity import Capacity
from llamarig.facts.releases import Release
from llamarig.facts.units import Unit
from llamarig.placement.candidate import Candidate
from llamarig.placement.declared_placement import declared_flags
from llamarig.placement.dry_run import with_candidate
from llamarig.placement.pinned_weights import (
    KNOWN_TO_FIT,
    LoadModeChoice,
    ServerMemory,
    is_pinned_unit,
    load_modes,
    may_be_pinned,
    memory_of_measured,
    memory_of_plan,
    needs_measurement,
    with_load_mode,
)
from llamarig.placement.ram_budget import memory_limit_mib
from llamarig.placement.staleness import CurrentInputs, is_current, plan_flags, staleness
from llamarig.placement.steps_down import effective_placement
from llamarig.records.model_lock import LockedModel
from llamarig.records.plan_file import MeasuredPlacement, Plan
from llamarig.render import layout
from llamarig.render.build_flags import FlagRefusedError
from llamarig.render.release import release_id, release_path

_NEWER = f"choose a newer llama.cpp, or {KNOWN_TO_FIT}"


class PlanError(Exception):
    """A model has no valid plan, or none can be made; the message names the reason and the remedy."""


class FullGpusError(PlanError):
    """A dry run found no memory on a GPU beside the servers that run there."""


def placement_queries(rig: Rig) -> Iterable[Query[Any]]:
    """The box's capacity, if a plan or a dry run of a declared placement depends on it."""
    is_planned = bool(planned_models(rig)) and not rig.simulated_gpus
    if is_planned or any(needs_measurement(rig, model) for model in rig.models):
        yield query(Capacity)


def planned_models(rig: Rig) -> list[Model]:
    """The models that are placed by a plan (``auto()``)."""
    return [model for model in rig.models if isinstance(model.serve.placement, Auto)]


def measured_models(rig: Rig) -> list[Model]:
    """The models with a declared placement that is measured, to decide whether their weights in RAM may be pinned."""
    return [
        model for model in rig.models if needs_measurement(rig, model) and not isinstance(model.serve.placement, Auto)
    ]


def release_of(rig: Rig, model: Model) -> str:
    """Directory of the release that serves a model."""
    return release_path(rig.build_of(model), rig.models)


def replan(model: Model) -> str:
    """The remedy for a plan that is out of date."""
    return f"plan again with tasks/plan.py --data update={model.name}"


def current_inputs(rig: Rig, seen: Seen, model: Model, release: Release, locked: LockedModel) -> CurrentInputs:
    """The inputs that a valid plan of this model was made for.

    :raises PlanError: if the build refuses a declared flag
    """
    auto = model.serve.placement
    assert isinstance(auto, Auto)
    try:
        flags = plan_flags(model, release.flags)
    except FlagRefusedError as error:
        raise PlanError(f"model {model.name!r}: {error}") from None
    return CurrentInputs(
        shards=tuple(shard.sha256 for shard in locked.shards),
        release=release_id(rig.build_of(model), rig.models),
        flags=flags,
        auto=auto,
        uuids=_uuids(rig, seen),
        simulated=rig.simulated_gpus,
        load_mode=model.serve.load_mode,
        offload_min_batch=model.serve.environment.get(OFFLOAD_MIN_BATCH, ""),
    )


def valid_plan(rig: Rig, seen: Seen, model: Model, release: Release, locked: LockedModel) -> Plan | None:
    """The plan that a model is served by; None if its placement is not ``auto()``.

    :raises PlanError: if there is no plan, or it was made for other inputs
    """
    if not isinstance(model.serve.placement, Auto):
        return None
    check_plan_file(seen)
    plan = seen.here.plans.get(model.name)
    if plan is None:
        raise PlanError(f"model {model.name!r} has no plan in {rig.plan_file} yet; {replan(model)}")
    if changes := staleness(plan, current_inputs(rig, seen, model, release, locked)):
        raise PlanError(f"the plan of model {model.name!r} is out of date: {'; '.join(changes)}; {replan(model)}")
    return plan


def as_planned(model: Model, plan: Plan | None) -> Model:
    """The model with the placement of its plan, including a step down that a start had to take."""
    if plan is None:
        return model
    candidate = Candidate(effective_placement(plan), plan.context, plan.ubatch, plan.cache_type_k, plan.cache_type_v)
    served = with_candidate(model, candidate)
    limit = memory_limit_mib(model.serve, plan)
    return served.model_copy(update={"serve": served.serve.model_copy(update={"memory_max_mib": limit})})


def check_plan_file(seen: Seen) -> None:
    """Check that the plan file could be read.

    :raises PlanError: if not, with the reason and the remedy
    """
    if seen.here.plan_problem:
        raise PlanError(seen.here.plan_problem)


def as_measured(rig: Rig, model: Model) -> Model:
    """The model as a dry run measures it: as it would be served with pinned weights."""
    mode = model.serve.load_mode
    return with_load_mode(rig, model, "none" if mode == "auto" else mode)


def can_be_measured(rig: Rig, model: Model, release: Release) -> bool:
    """Whether a release can measure a declared placement: it has llama-fit-params and knows the declared flags.

    Flags that it refuses are reported when the unit is rendered.
    """
    try:
        declared_flags(as_measured(rig, model), release.flags)
    except FlagRefusedError:
        return False
    return "llama-fit-params" in release.files


def valid_measurement(
    rig: Rig, seen: Seen, model: Model, release: Release, locked: LockedModel
) -> MeasuredPlacement | None:
    """The recorded dry run of a declared placement; None if there is none, or it was made for other inputs."""
    measured = seen.here.measured.get(model.name)
    if measured is None:
        return None
    try:
        flags = declared_flags(as_measured(rig, model), release.flags)
    except FlagRefusedError:
        return None  # reported in full when the unit is rendered
    now = CurrentInputs(
        shards=tuple(shard.sha256 for shard in locked.shards),
        release=release_id(rig.build_of(model), rig.models),
        flags=flags,
        uuids=_uuids(rig, seen),
        simulated=rig.simulated_gpus,
    )
    return measured if is_current(measured, now) else None


def server_memory(
    rig: Rig, seen: Seen, releases: Mapping[str, Release], locked: Sequence[LockedModel]
) -> dict[str, ServerMemory]:
    """Model name -> the memory it takes, for models with a plan or a recorded dry run.

    A dry run of another release or with other flags counts until a new one is made, so that a model keeps its load mode
    across an upgrade. The switch tests it.

    :raises PlanError: if the plan file cannot be read
    """
    check_plan_file(seen)
    found = {}
    for model, lock in zip(rig.models, locked, strict=True):
        placement = model.serve.placement
        if isinstance(placement, Auto):
            if model.name in seen.here.plans:
                found[model.name] = memory_of_plan(seen.here.plans[model.name])
        elif needs_measurement(rig, model):
            release = releases.get(release_of(rig, model), Release())
            held = valid_measurement(rig, seen, model, release, lock)
            if held is None and (earlier := seen.here.measured.get(model.name)) is not None:
                held = earlier if _is_of(rig, seen, earlier, lock) else None
            if held is not None and not held.failed:
                found[model.name] = memory_of_measured(held, placement)
    return found


def chosen_load_modes(
    rig: Rig,
    seen: Seen,
    releases: Mapping[str, Release],
    locked: Sequence[LockedModel],
    units: Mapping[str, Unit],
) -> tuple[dict[str, LoadModeChoice], dict[str, ServerMemory]]:
    """The load mode of each model's weights, and the memory of each model as far as it is known.

    :param units: the box's current units
    :raises PlanError: if the plan file cannot be read
    """
    if not any(needs_measurement(rig, model) for model in rig.models):
        planned = {name: memory_of_plan(plan) for name, plan in seen.here.plans.items()}
        return {model.name: LoadModeChoice(model.serve.load_mode) for model in rig.models}, planned
    memory = server_memory(rig, seen, releases, locked)
    pinned_now = {
        model.name
        for model in rig.models
        if (unit := units.get(layout.unit_name(model.name))) is not None and is_pinned_unit(unit.text)
    }
    chosen = load_modes(rig, memory, seen.get(Capacity), pinned_now)
    for model, lock in zip(rig.models, locked, strict=True):
        release = releases.get(release_of(rig, model), Release())
        choice = chosen[model.name]
        if may_be_pinned(rig, model) and choice.mode == "none" and not {"--load-mode", "--no-mmap"} & release.flags:
            chosen[model.name] = LoadModeChoice("auto", "this build of llama-server has no flag for it", _NEWER)
        elif choice.missing and (why := _why_not_measured(rig, seen, model, release, lock)):
            again = f"measure again with tasks/plan.py --data update={model.name}, or {KNOWN_TO_FIT}"
            chosen[model.name] = LoadModeChoice("auto", why, again)
    return chosen, memory


def _uuids(rig: Rig, seen: Seen) -> frozenset[str] | None:
    return None if rig.simulated_gpus else seen.get(Capacity).gpus


def _is_of(rig: Rig, seen: Seen, measured: MeasuredPlacement, locked: LockedModel) -> bool:
    """Whether an earlier dry run was of the same files on the same GPUs."""
    now = CurrentInputs(
        shards=tuple(shard.sha256 for shard in locked.shards),
        release=measured.release,
        flags=measured.flags,
        uuids=_uuids(rig, seen),
        simulated=rig.simulated_gpus,
    )
    return is_current(measured, now)


def _why_not_measured(rig: Rig, seen: Seen, model: Model, release: Release, locked: LockedModel) -> str:
    if isinstance(model.serve.placement, Auto) or not may_be_pinned(rig, model):
        return ""
    if release.files and "llama-fit-params" not in release.files:
        return "its release has no llama-fit-params, so no dry run can show how much memory that takes"
    held = valid_measurement(rig, seen, model, release, locked)
    return held.failed if held is not None else ""
