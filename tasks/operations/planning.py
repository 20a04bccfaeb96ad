"""Plans made on a box, by dry runs of the very release that will serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra import logger
from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from tasks.facts.dry_runs import DryRun, HeldByOurs, PlannableDevices, PreparedHeaders
from tasks.facts.gpus import Gpus
from tasks.facts.model_store import ModelStore
from tasks.facts.releases import Release
from tasks.operations import Commands
from tasks.operations.lock_file import ONE_WRITER, LockError, locked_models
from tasks.operations.long_work import read_releases
from tasks.operations.plan_file import (
    PlanError,
    planned_by_us,
    present,
    read_plans,
    release_of,
    replan,
    write_plan,
)
from tasks.operations.refuse import refuse, report
from tasks.operations.simulated_gpus import simulation_library
from tasks.planning import layout
from tasks.planning.gguf_header import Header, Tensor
from tasks.planning.plans import report as in_words
from tasks.planning.plans.conceding import NothingFitsError
from tasks.planning.plans.device import Device, simulated_devices, simulation_environment, with_uuids
from tasks.planning.plans.dry_run import (
    DryRunError,
    command,
    draft_arguments,
    prediction,
    server_outputs,
    vision_mib,
)
from tasks.planning.plans.making import Case, make_plan
from tasks.planning.plans.staleness import plan_changes, staleness
from tasks.planning.release import release_differences
from tasks.planning.shards import model_files, target
from tasks.planning.unit_text import unit_environment
from tasks.spec.model import Model
from tasks.spec.model_lock import LockedModel
from tasks.spec.placement import Auto
from tasks.spec.plan_file import Belongs, Plan, PlannedDevice
from tasks.spec.rig import Rig


@dataclass(frozen=True)
class _Ground:
    """What a model is planned with: its release, whole, and its lock entry."""

    release: Release
    locked: LockedModel


def _ground(rig: Rig, models: Sequence[Model]) -> dict[str, _Ground]:
    """Model name -> what it is planned with, for those whose release and lock entry are there.

    :raises PlanError: when the model lock cannot be read
    """
    try:
        locked = locked_models(rig)
    except LockError as error:
        raise PlanError(str(error)) from None
    releases = read_releases(rig)
    found = {}
    for index, model in enumerate(rig.models):
        path = release_of(rig, model)
        release = releases.get(path, Release())
        if model in models and locked and not release_differences(path, release.manifest, release.files):
            found[model.name] = _Ground(release, locked[index])
    return found


@operation()
def models_planned(rig: Rig) -> Commands:
    """Every model with auto() has a plan that holds; the first one is made here, a stale one is refused."""
    models = planned_by_us(rig)
    if not models:
        host.noop("no model is placed by a plan")
        return
    try:
        plans = read_plans(rig.plan_file).boxes.get(host.name, {})
        ground = _ground(rig, models)
        stale = []
        for model in models:
            if model.name in plans and model.name in ground:
                now = present(rig, model, ground[model.name].release, ground[model.name].locked)
                if changes := staleness(plans[model.name], now):
                    stale.append(f"model {model.name!r}: {'; '.join(changes)}; {replan(model)}")
    except PlanError as error:
        yield from refuse(str(error))
        return
    if stale:
        yield from refuse("a plan no longer holds; no unit was changed", stale)
        return
    missing = [model for model in models if model.name not in plans]
    if not missing:
        host.noop("every plan holds")
        return
    yield FunctionCommand(_plan_missing, [rig, missing], {})


def _plan_missing(state: State, host: Host, rig: Rig, models: list[Model]) -> bool:
    for model in models:
        try:
            plan = planned(rig, model)
            with ONE_WRITER:  # several boxes share a plan file
                write_plan(rig.plan_file, host.name, model.name, plan)
        except PlanError as error:
            report(host, str(error))
            return False
        for line in in_words.report(plan, model.name):
            host.log(line)
        host.log(f"{model.name}: planned with {plan.dry_runs} dry runs; commit {rig.plan_file}")
    return True


@operation()
def plans_shown(rig: Rig, only: tuple[str, ...] = (), update: tuple[str, ...] = ()) -> Commands:
    """Each model's plan as it would be made now, beside the one in the plan file; ``update`` writes it there."""
    models = planned_by_us(rig)
    names = [model.name for model in models]
    if unknown := [name for name in (*only, *update) if name not in (*names, "all")]:
        yield from refuse(
            f"{', '.join(unknown)} is no model of this box with auto() as its placement: name "
            f"{', '.join(names) or 'none, there is none'}"
        )
        return
    if not models:
        host.noop("no model of this box has auto() as its placement, so there is nothing to plan")
        return
    chosen = [model for model in models if not only or model.name in only]
    if state.is_executing:
        yield FunctionCommand(_show, [rig, chosen, update], {})
    else:
        yield FunctionCommand(lambda state, host: True, [], {})


def _show(state: State, host: Host, rig: Rig, models: list[Model], update: tuple[str, ...]) -> bool:
    well = True
    for model in models:
        try:
            plan = planned(rig, model)
            before = read_plans(rig.plan_file).boxes.get(host.name, {}).get(model.name)
            for line in in_words.report(plan, model.name):
                host.log(line)
            _compare(host, rig, model, before, plan)
            if model.name in update or "all" in update:
                with ONE_WRITER:  # several boxes share a plan file
                    write_plan(rig.plan_file, host.name, model.name, plan)
                host.log(f"{model.name}: written; commit {rig.plan_file}, then run deploy.py")
        except PlanError as error:
            report(host, str(error))
            well = False
    return well


def _compare(host: Host, rig: Rig, model: Model, before: Plan | None, plan: Plan) -> None:
    if before is None:
        host.log(f"{model.name}: not in {rig.plan_file} yet: deploy.py writes it there, or --data update={model.name}")
        return
    found = _ground(rig, [model])[model.name]
    why = staleness(before, present(rig, model, found.release, found.locked))
    what = plan_changes(before, plan)
    if not why and not what:
        host.log(f"{model.name}: as in {rig.plan_file}")
        return
    host.log(f"{model.name}: otherwise than in {rig.plan_file}")
    for line in (*why, *what):
        host.log_styled(f"    {line}", fg="yellow", log_func=logger.warning)


def planned(rig: Rig, model: Model) -> Plan:
    """A plan made now, by dry runs on this box.

    :raises PlanError: saying what is missing, or why nothing fits
    """
    ground = _ground(rig, [model]).get(model.name)
    if ground is None:
        raise PlanError(f"model {model.name!r} cannot be planned: its release or lock entry is missing; run deploy.py")
    release = release_of(rig, model)
    if "llama-fit-params" not in ground.release.files:
        raise PlanError(
            f"model {model.name!r} cannot be planned: release {release.rsplit('/', 1)[-1][:20]} has no "
            "llama-fit-params; choose a newer llama.cpp, or declare layers(...)"
        )
    directory = f"{layout.HEADERS}/.short-{model.name}"
    try:
        case = _case(rig, model, ground, release, directory)
        asking = make_plan(case)
        environment = _environment(rig, model)
        arguments = next(asking)
        while True:
            output = host.get_fact(DryRun, line=command(release, arguments, environment))
            arguments = asking.send(output)
    except StopIteration as end:
        plan: Plan = end.value
        return plan
    except (NothingFitsError, DryRunError) as error:
        raise PlanError(f"model {model.name!r} cannot be planned: {error}") from None
    finally:
        host.run_shell_command(StringCommand("rm", "-rf", directory))


def _environment(rig: Rig, model: Model) -> dict[str, str]:
    served = unit_environment(model, rig.build_of(model))
    if not rig.simulated_gpus:
        return served
    return {**served, **simulation_environment(rig.simulated_gpus, simulation_library(rig.build_of(model)))}


def _devices(rig: Rig, model: Model, release: str, vram: dict[str, int]) -> list[Device]:
    if rig.simulated_gpus:
        return simulated_devices(rig.simulated_gpus)
    devices = host.get_fact(PlannableDevices, release=release, environment=_environment(rig, model))
    if not devices:
        raise PlanError(
            f"model {model.name!r} cannot be planned: its release sees no GPU here; install the driver, choose a "
            "build with a GPU backend, or declare cpu_only(); or plan for GPUs that are not here with "
            "rig(simulated_gpus=...)"
        )
    return with_uuids(devices, host.get_fact(Gpus).gpus, model.serve.gpus, vram)


def _case(rig: Rig, model: Model, ground: _Ground, release: str, directory: str) -> Case:
    auto = model.serve.placement
    assert isinstance(auto, Auto)
    shards = _headers(model, ground.locked)
    held = host.get_fact(HeldByOurs)
    devices = _devices(rig, model, release, {} if rig.simulated_gpus else held.vram_mib)
    try:
        margins = auto.margins(len(devices))
    except ValueError as error:
        raise PlanError(f"model {model.name!r}: {error}") from None
    ubatch = min(model.serve.ubatch, model.serve.batch)
    said = host.get_fact(
        PreparedHeaders, directory=directory, outputs=server_outputs(model), ubatch=ubatch, shards=shards
    )
    if "tensors" not in said:
        raise PlanError(
            f"model {model.name!r} cannot be planned: its header cannot be read: {said.get('error', 'no answer')}; "
            "deploy.py --data deep=1 reads every byte of the files and fetches anew what is wrong"
        )
    tensors = tuple(Tensor(name, tuple(shape), kind, size) for name, shape, kind, size in said["tensors"])
    now = present(rig, model, ground.release, ground.locked)
    belongs = Belongs(
        header=said["header"],
        shards=now.shards,
        devices=tuple(
            PlannedDevice(
                name=device.name,
                description=device.description,
                total_mib=device.total_mib,
                free_mib=device.free_mib,
                uuid=device.uuid,
            )
            for device in devices
        ),
        margins_mib=margins,
        others_mib=_others(rig, model, ground, release, devices),
        flags=now.flags,
        release=now.release,
    )
    return Case(
        model=model,
        flags=ground.release.flags,
        header=Header(tensors, said["metadata"]),
        path=shards[0],
        short=said.get("short"),
        devices=tuple(devices),
        simulated=bool(rig.simulated_gpus),
        belongs=belongs,
        ram_available_mib=held.available_mib,
    )


def _headers(model: Model, locked: LockedModel) -> list[str]:
    """Paths on the box of the shards, or of their headers.

    :raises PlanError: when the files are not there
    """
    there = host.get_fact(ModelStore).files
    shards = [target(locked, shard) for shard in locked.shards]
    if missing := [shard for shard in shards if shard not in there]:
        raise PlanError(f"model {model.name!r} cannot be planned: {missing[0]} is not on the box; run deploy.py")
    return shards


def _others(rig: Rig, model: Model, ground: _Ground, release: str, devices: list[Device]) -> tuple[int, ...]:
    """MiB on each GPU that the model's own dry run does not see: vision projector and draft model."""
    others = [0] * len(devices)
    locked = ground.locked
    if locked.mmproj is not None and model.serve.mmproj_offload:
        others[0] += vision_mib(locked.mmproj.size)
    draft = model_files(locked).draft
    if draft is not None:
        names = [device.name for device in devices] if rig.simulated_gpus else []
        line = command(release, draft_arguments(model, draft, names), _environment(rig, model))
        said = prediction(host.get_fact(DryRun, line=line), f"llama-fit-params with the draft of {model.name!r}")
        others = [other + row.total_mib for other, row in zip(others, said.gpus, strict=True)]
    return tuple(others) if any(others) else ()
