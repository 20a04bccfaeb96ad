"""A plan made on a box, by dry runs of the very release that will serve."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand
from pyinfra.context import host, state

from tasks.facts.capacity import Capacity
from tasks.facts.files import FileSizes
from tasks.facts.gpus import Gpus
from tasks.facts.model_headers import ModelHeaders
from tasks.facts.model_store import ModelStore
from tasks.facts.plannable import HeldByOurs, PlannableDevices
from tasks.facts.releases import Release
from tasks.operations.header_files import sparse_paths
from tasks.operations.load_modes import server_memory
from tasks.operations.lock_file import LockError, locked_models
from tasks.operations.long_work import read_releases
from tasks.operations.plan_file import PlanError, release_of
from tasks.operations.simulated_gpus import simulation_library
from tasks.planning import layout
from tasks.planning.build_flags import FlagRefusedError
from tasks.planning.gguf_header import Header, digest_of
from tasks.planning.pinned_weights import may_be_pinned, pinned_ram_mib, wants_measuring
from tasks.planning.plans.conceding import LEAST_UBATCH, NothingFitsError
from tasks.planning.plans.declared import declared_flags, measure_declared
from tasks.planning.plans.device import Device, simulated_devices, simulation_environment, with_uuids
from tasks.planning.plans.dry_run import (
    DryRunError,
    command,
    draft_arguments,
    prediction,
    server_outputs,
    short_command,
    used_arguments,
    vision_mib,
)
from tasks.planning.plans.making import Case, TooManyDryRunsError, make_plan
from tasks.planning.plans.staleness import flags_of
from tasks.planning.release import release_differences, release_id
from tasks.planning.shards import model_files, target
from tasks.planning.unit_text import unit_environment
from tasks.spec.model import Model
from tasks.spec.model_lock import LockedModel
from tasks.spec.placement import Auto
from tasks.spec.plan_file import Belongs, MeasuredPlacement, Plan, PlannedDevice
from tasks.spec.rig import Rig

T = TypeVar("T")


@dataclass(frozen=True)
class Ground:
    """What a model is planned with: its release, whole, and its lock entry."""

    release: Release
    locked: LockedModel


def ground_of(rig: Rig, models: Sequence[Model]) -> dict[str, Ground]:
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
            found[model.name] = Ground(release, locked[index])
    return found


def planned(rig: Rig, model: Model) -> Plan:
    """A plan made now, by dry runs on this box.

    :raises PlanError: saying what is missing, or why nothing fits
    """
    ground = ground_of(rig, [model]).get(model.name)
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
        case = _case(rig, model, ground, directory, _pinned_ram_mib(rig, model))
        return _performed(make_plan(case), release, _environment(rig, model))
    except (NothingFitsError, DryRunError, TooManyDryRunsError) as error:
        raise PlanError(f"model {model.name!r} cannot be planned: {error}") from None
    finally:
        _run(f"rm -rf {directory}")


def measured(rig: Rig, model: Model, ground: Ground) -> MeasuredPlacement:
    """What a declared placement takes, by dry runs on this box made now; with the reason where the program fails.

    :param model: as it would be served with pinned weights
    :raises PlanError: for what may be otherwise at the next run: no GPU, files that are missing, GPUs in use
    """
    directory = f"{layout.HEADERS}/.short-{model.name}"
    try:
        case = _case(rig, model, ground, directory)
        return _performed(measure_declared(case), release_of(rig, model), _environment(rig, model))
    except DryRunError as error:
        if re.search(r"out of memory|CUDA error|exit status 124", str(error)):
            raise PlanError(f"model {model.name!r} cannot be measured now: {error}") from None
        return MeasuredPlacement(
            shards=tuple(shard.sha256 for shard in ground.locked.shards),
            release=release_id(rig.build_of(model), rig.models),
            flags=declared_flags(model, ground.release.flags),
            failed=f"no dry run could show how much memory that takes: {error}",
        )
    finally:
        _run(f"rm -rf {directory}")


def _performed(asking: Generator[Sequence[str], str, T], release: str, environment: dict[str, str]) -> T:
    """Perform the dry runs that a generator asks for; its result."""
    try:
        arguments = next(asking)
        while True:
            arguments = asking.send(_run(command(release, arguments, environment)))
    except StopIteration as end:
        result: T = end.value
        return result


def _pinned_ram_mib(rig: Rig, model: Model) -> int | None:
    """MiB of RAM that a planned model may take with pinned weights, beside what else may run; None for not pinned."""
    if not wants_measuring(rig, model) or "pinned-margin" in model.serve.accept:
        return None
    if not may_be_pinned(rig, model):
        return sys.maxsize  # declared: whether it fits into the RAM is its owner's business
    locked = locked_models(rig)
    memory = server_memory(rig, read_releases(rig), locked) if locked is not None else {}
    return pinned_ram_mib(rig, model, memory, host.get_fact(Capacity))


def _run(line: str) -> str:
    """What a command prints on the box, with the rights the operation has there."""
    given, _ = pop_global_arguments(state, host, {})
    rights = {key: value for key, value in given.items() if key in CONNECTOR_ARGUMENT_KEYS}
    _, output = host.run_shell_command(StringCommand(line), **rights)
    if "No module named" in output.stderr:
        raise PlanError("llamarig's programs on the box are older than this repository: run deploy.py")
    return str(output.stdout)


def _environment(rig: Rig, model: Model) -> dict[str, str]:
    served = unit_environment(model, rig.build_of(model))
    if not rig.simulated_gpus:
        return served
    return {**served, **simulation_environment(rig.simulated_gpus, simulation_library(rig.build_of(model)))}


def _devices(rig: Rig, model: Model, release: str, header: str, vram: dict[str, int]) -> list[Device]:
    environment = _environment(rig, model)
    if rig.simulated_gpus:
        devices = simulated_devices(rig.simulated_gpus)
    else:
        devices = host.get_fact(PlannableDevices, release=release, environment=environment)
    if devices:
        # llama.cpp leaves some of those it lists unused: processor graphics beside a card, all but one GPU on request.
        names = [device.name for device in devices] if rig.simulated_gpus else []
        line = command(release, used_arguments(model, header, names), environment)
        used = prediction(_run(line), f"llama-fit-params with model {model.name!r}")
        devices = [device for device in devices if device.name in {row.name for row in used.gpus}]
    if not devices:
        raise PlanError(
            f"model {model.name!r} cannot be planned: its release sees no GPU here; install the driver, choose a "
            "build with a GPU backend, or declare cpu_only(); or plan for GPUs that are not here with "
            "rig(simulated_gpus=...)"
        )
    return with_uuids(devices, host.get_fact(Gpus).gpus, model.serve.gpus, vram)


def _case(rig: Rig, model: Model, ground: Ground, directory: str, pinned_ram_mib: int | None = None) -> Case:
    auto, release = model.serve.placement, release_of(rig, model)
    shards = _shards(model, ground.locked)
    read = host.get_fact(ModelHeaders, paths=shards)
    if unread := [shard for shard in shards if shard not in read]:
        raise PlanError(
            f"model {model.name!r} cannot be planned: {unread[0]} has no header that llama.cpp reads; "
            "deploy.py --data deep=1 reads every byte of the model files and fetches anew what is wrong"
        )
    headers = [read[shard] for shard in shards]
    held = host.get_fact(HeldByOurs)
    devices = _devices(rig, model, release, shards[0], {} if rig.simulated_gpus else held.vram_mib)
    try:
        margins = auto.margins(len(devices)) if isinstance(auto, Auto) else (0,) * len(devices)
    except ValueError as error:
        raise PlanError(f"model {model.name!r}: {error}") from None
    belongs = Belongs(
        header=digest_of(headers),
        shards=tuple(shard.sha256 for shard in ground.locked.shards),
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
        flags=_flags(model, ground),
        release=release_id(rig.build_of(model), rig.models),
    )
    return Case(
        model=model,
        flags=ground.release.flags,
        header=Header(tuple(tensor for header in headers for tensor in header.tensors), headers[0].metadata),
        path=shards[0],
        short=_short(model, directory, shards),
        devices=tuple(devices),
        simulated=bool(rig.simulated_gpus),
        belongs=belongs,
        ram_available_mib=held.available_mib,
        pinned_ram_mib=pinned_ram_mib,
        box_ram_mib=host.get_fact(Capacity).ram >> 20,
    )


def _flags(model: Model, ground: Ground) -> tuple[str, ...]:
    try:
        return flags_of(model, ground.release.flags)
    except FlagRefusedError as error:
        raise PlanError(f"model {model.name!r}: {error}") from None


def _shards(model: Model, locked: LockedModel) -> list[str]:
    """Paths on the box of the shards, or of sparse copies of them.

    :raises PlanError: when neither are there
    """
    there = host.get_fact(ModelStore).files
    shards = [target(locked, shard) for shard in locked.shards]
    if all(shard in there for shard in shards):
        return shards
    copies = sparse_paths(locked)
    sizes = host.get_fact(FileSizes, paths=copies)
    if [sizes.get(copy) for copy in copies] == [shard.size for shard in locked.shards]:
        return copies
    raise PlanError(f"model {model.name!r} cannot be planned: neither its files nor their headers are on the box")


def _short(model: Model, directory: str, shards: list[str]) -> str | None:
    """The header that makes a dry run reserve logits as the server does; None where it does so already.

    Where there can be none, the plan is on the safe side: more is reserved than will be used.
    """
    outputs, ubatch = server_outputs(model), min(model.serve.ubatch, model.serve.batch)
    auto = model.serve.placement
    if isinstance(auto, Auto) and "ubatch" in auto.give_up:
        ubatch = min(ubatch, LEAST_UBATCH)  # the ratio that is enough for every one that may be tried
    if outputs >= ubatch:
        return None
    said = _run(short_command(directory, outputs, ubatch, shards)).strip()
    if not said.startswith("/"):
        why = said.removeprefix("error: ") or "no answer"
        host.log(f"{model.name}: planned with more logits than llama-server reserves: {why}")
        return None
    return said


def _others(rig: Rig, model: Model, ground: Ground, release: str, devices: list[Device]) -> tuple[int, ...]:
    """MiB on each GPU that the model's own dry run does not see: vision projector and draft model."""
    others = [0] * len(devices)
    locked = ground.locked
    if locked.mmproj is not None and model.serve.mmproj_offload:
        others[0] += vision_mib(locked.mmproj.size)
    draft = model_files(locked).draft
    if draft is not None:
        names = [device.name for device in devices] if rig.simulated_gpus else []
        line = command(release, draft_arguments(model, draft, names), _environment(rig, model))
        said = prediction(_run(line), f"llama-fit-params with the draft of {model.name!r}")
        others = [other + row.total_mib for other, row in zip(others, said.gpus, strict=True)]
    return tuple(others) if any(others) else ()
