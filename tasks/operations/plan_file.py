"""The plan file, on the machine that deploys: read, written, and held against what is declared and there now."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError
from pyinfra.context import host

from tasks.facts.capacity import Capacity
from tasks.facts.releases import Release
from tasks.operations.once import read_once
from tasks.planning.build_flags import FlagRefusedError
from tasks.planning.plans.candidate import Candidate
from tasks.planning.plans.dry_run import with_candidate
from tasks.planning.plans.ladder import in_force
from tasks.planning.plans.ram import memory_limit_mib
from tasks.planning.plans.staleness import Present, flags_of, staleness
from tasks.planning.release import release_id, release_path
from tasks.spec.model import Model
from tasks.spec.model_lock import LockedModel
from tasks.spec.placement import Auto
from tasks.spec.plan_file import MeasuredPlacement, Plan, PlanFile
from tasks.spec.rig import Rig


class PlanError(Exception):
    """There is no plan that holds, or none can be made; the message says what to do."""


def read_plans(path: str) -> PlanFile:
    """The plan file; an empty one where there is none yet.

    :raises PlanError: when the file is no plan file
    """
    file = Path(path)
    if not file.exists():
        return PlanFile()
    try:
        return PlanFile.model_validate_json(file.read_bytes())
    except OSError as error:
        raise PlanError(f"{path} cannot be read ({error.strerror}): make it a readable file, or restore it") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise PlanError(
            f"{path} is no plan file ({'.'.join(map(str, first['loc']))}: {first['msg']}): restore it from git"
        ) from None


def write_plan(path: str, box: str, model: str, plan: Plan) -> None:
    """Put one plan into the plan file, in one step; hold ONE_WRITER of tasks/operations/lock_file.py around it."""
    plans = read_plans(path)
    boxes = {**plans.boxes, box: {**plans.boxes.get(box, {}), model: plan}}
    _write(path, plans.model_copy(update={"boxes": boxes}))


def write_measured(path: str, box: str, model: str, measured: MeasuredPlacement) -> None:
    """Put what one declared placement takes into the plan file, as `write_plan` does."""
    plans = read_plans(path)
    boxes = {**plans.measured, box: {**plans.measured.get(box, {}), model: measured}}
    _write(path, plans.model_copy(update={"measured": boxes}))


def _write(path: str, plans: PlanFile) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    content = plans.model_dump(mode="json", exclude_defaults=True)
    part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    part.replace(file)


def planned_by_us(rig: Rig) -> list[Model]:
    """The models whose layers a plan places."""
    return [model for model in rig.models if isinstance(model.serve.placement, Auto)]


def present(rig: Rig, model: Model, release: Release, locked: LockedModel) -> Present:
    """What a plan of this model is held against.

    :raises PlanError: when the build refuses what is declared
    """
    auto = model.serve.placement
    assert isinstance(auto, Auto)
    try:
        flags = flags_of(model, release.flags)
    except FlagRefusedError as error:
        raise PlanError(f"model {model.name!r}: {error}") from None
    return Present(
        shards=tuple(shard.sha256 for shard in locked.shards),
        release=release_id(rig.build_of(model), rig.models),
        flags=flags,
        auto=auto,
        uuids=None if rig.simulated_gpus else read_once(Capacity).gpus,
        simulated=rig.simulated_gpus,
    )


def plan_that_holds(rig: Rig, model: Model, release: Release, locked: LockedModel) -> Plan | None:
    """The plan a model is served by, None where its placement is not auto().

    :raises PlanError: when there is no plan, or one that no longer holds
    """
    if not isinstance(model.serve.placement, Auto):
        return None
    plan = read_plans(rig.plan_file).boxes.get(host.name, {}).get(model.name)
    if plan is None:
        raise PlanError(f"model {model.name!r} has no plan in {rig.plan_file} yet; {replan(model)}")
    if changes := staleness(plan, present(rig, model, release, locked)):
        raise PlanError(f"the plan of model {model.name!r} no longer holds: {'; '.join(changes)}; {replan(model)}")
    return plan


def as_planned(model: Model, plan: Plan | None) -> Model:
    """The model as it is served: by its plan, with the step down that a start may have had to take."""
    if plan is None:
        return model
    candidate = Candidate(in_force(plan), plan.context, plan.ubatch, plan.cache_type_k, plan.cache_type_v)
    served = with_candidate(model, candidate)
    limit = memory_limit_mib(model.serve, plan)
    return served.model_copy(update={"serve": served.serve.model_copy(update={"memory_max_mib": limit})})


def replan(model: Model) -> str:
    """How its owner plans it anew."""
    return f"look and plan anew with tasks/plan.py --data update={model.name}"


def release_of(rig: Rig, model: Model) -> str:
    """Directory of the release a model runs on."""
    return release_path(rig.build_of(model), rig.models)
