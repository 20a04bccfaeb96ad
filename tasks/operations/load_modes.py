"""How each model's weights are loaded on this box: recorded dry runs and MemTotal against the declarations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyinfra.context import host

from tasks.facts.capacity import Capacity
from tasks.facts.releases import Release
from tasks.operations.once import read_once
from tasks.operations.plan_file import read_plans, release_of
from tasks.planning import layout
from tasks.planning.build_flags import FlagRefusedError
from tasks.planning.pinned_weights import (
    KNOWN_TO_FIT,
    Choice,
    ServerMemory,
    is_pinned_unit,
    load_modes,
    may_be_pinned,
    memory_of_measured,
    memory_of_plan,
    wants_measuring,
    with_load_mode,
)
from tasks.planning.plans.declared import declared_flags
from tasks.planning.plans.staleness import Present, measured_changes
from tasks.planning.release import release_id
from tasks.planning.serving import Unit
from tasks.spec.model import Model
from tasks.spec.model_lock import LockedModel
from tasks.spec.placement import Auto
from tasks.spec.plan_file import MeasuredPlacement
from tasks.spec.rig import Rig

_NEWER = f"choose a newer llama.cpp, or {KNOWN_TO_FIT}"


def measured_models(rig: Rig) -> list[Model]:
    """The models whose declared placement is measured, to know whether their weights in RAM may be pinned."""
    return [
        model for model in rig.models if wants_measuring(rig, model) and not isinstance(model.serve.placement, Auto)
    ]


def as_measured(rig: Rig, model: Model) -> Model:
    """The model as it is measured: as it would be served with pinned weights."""
    mode = model.serve.load_mode
    return with_load_mode(rig, model, "none" if mode == "auto" else mode)


def can_be_measured(rig: Rig, model: Model, release: Release) -> bool:
    """Whether a release can show what a declared placement takes: it has the program, and the flags it is served with.

    Flags that it refuses are reported where the unit is rendered.
    """
    try:
        declared_flags(as_measured(rig, model), release.flags)
    except FlagRefusedError:
        return False
    return "llama-fit-params" in release.files


def measurement_that_holds(rig: Rig, model: Model, release: Release, locked: LockedModel) -> MeasuredPlacement | None:
    """The recorded dry run of a declared placement; None where there is none, or it is true for something else.

    :raises PlanError: when the plan file cannot be read
    """
    measured = read_plans(rig.plan_file).measured.get(host.name, {}).get(model.name)
    if measured is None:
        return None
    try:
        flags = declared_flags(as_measured(rig, model), release.flags)
    except FlagRefusedError:
        return None  # reported in full where the unit is rendered
    now = Present(
        shards=tuple(shard.sha256 for shard in locked.shards),
        release=release_id(rig.build_of(model), rig.models),
        flags=flags,
        uuids=None if rig.simulated_gpus else read_once(Capacity).gpus,
        simulated=rig.simulated_gpus,
    )
    return None if measured_changes(measured, now) else measured


def server_memory(rig: Rig, releases: dict[str, Release], locked: Sequence[LockedModel]) -> dict[str, ServerMemory]:
    """Model name -> what it takes, for those with a plan or a recorded dry run.

    Where a dry run was made with another release or other flags, and none can be made now, it still says more than
    nothing: a model keeps its load mode across an upgrade. The switch proves that it works.

    :raises PlanError: when the plan file cannot be read
    """
    recorded = read_plans(rig.plan_file)
    plans, measurements = recorded.boxes.get(host.name, {}), recorded.measured.get(host.name, {})
    found = {}
    for model, lock in zip(rig.models, locked, strict=True):
        placement = model.serve.placement
        if isinstance(placement, Auto):
            if model.name in plans:
                found[model.name] = memory_of_plan(plans[model.name])
        elif wants_measuring(rig, model):
            release = releases.get(release_of(rig, model), Release())
            held = measurement_that_holds(rig, model, release, lock)
            if held is None and (earlier := measurements.get(model.name)) is not None:
                held = earlier if _is_of(rig, earlier, lock) else None
            if held is not None and not held.failed:
                found[model.name] = memory_of_measured(held, placement)
    return found


def _is_of(rig: Rig, measured: MeasuredPlacement, locked: LockedModel) -> bool:
    """Whether an earlier dry run was of the same files on the same GPUs."""
    now = Present(
        shards=tuple(shard.sha256 for shard in locked.shards),
        release=measured.release,
        flags=measured.flags,
        uuids=None if rig.simulated_gpus else read_once(Capacity).gpus,
        simulated=rig.simulated_gpus,
    )
    return not measured_changes(measured, now)


def read_load_modes(
    rig: Rig, releases: dict[str, Release], locked: Sequence[LockedModel], units: Mapping[str, Unit]
) -> tuple[dict[str, Choice], dict[str, ServerMemory]]:
    """How each model's weights are loaded, and what each takes of memory as far as it is known.

    :param units: the box's units as they are now
    :raises PlanError: when the plan file cannot be read
    """
    if not any(wants_measuring(rig, model) for model in rig.models):
        return {model.name: Choice(model.serve.load_mode) for model in rig.models}, {}
    memory = server_memory(rig, releases, locked)
    pinned_now = {
        model.name
        for model in rig.models
        if (unit := units.get(layout.unit_name(model.name))) is not None and is_pinned_unit(unit.text)
    }
    chosen = load_modes(rig, memory, read_once(Capacity), pinned_now)
    for model, lock in zip(rig.models, locked, strict=True):
        release = releases.get(release_of(rig, model), Release())
        choice = chosen[model.name]
        if may_be_pinned(rig, model) and choice.mode == "none" and not {"--load-mode", "--no-mmap"} & release.flags:
            chosen[model.name] = Choice("auto", "this build of llama-server has no flag for it", _NEWER)
        elif choice.lacks and (why := _why_not_measured(rig, model, release, lock)):
            again = f"measure anew with tasks/plan.py --data update={model.name}, or {KNOWN_TO_FIT}"
            chosen[model.name] = Choice("auto", why, again)
    return chosen, memory


def _why_not_measured(rig: Rig, model: Model, release: Release, locked: LockedModel) -> str:
    if isinstance(model.serve.placement, Auto) or not may_be_pinned(rig, model):
        return ""
    if release.files and "llama-fit-params" not in release.files:
        return "its release has no llama-fit-params, so no dry run can show how much memory that takes"
    held = measurement_that_holds(rig, model, release, locked)
    return held.failed if held is not None else ""
