"""Make plans by dry runs on the box, of the release that will serve the model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyinfra.context import host

from llamarig.declare.model import Model
from llamarig.declare.placement import Auto
from llamarig.declare.rig import Rig
from llamarig.declare.serve.weights import OFFLOAD_MIN_BATCH
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Query, Seen, query
from llamarig.engine.run import ask
from llamarig.engine.screen import say
from llamarig.facts.capacity import Capacity
from llamarig.facts.files import FileSizes
from llamarig.facts.gpus import Gpus
from llamarig.facts.model_headers import ModelHeaders
from llamarig.facts.model_store import ModelStore
from llamarig.facts.plannable_devices import HeldByServers, HeldMemory, PlannableDevices
from llamarig.facts.releases import Release
from llamarig.items.box_reservation import run_reserved
from llamarig.items.dry_run_box import outputs_of
from llamarig.items.header_files import sparse_paths
from llamarig.items.placements import FullGpusError, PlanError, release_of, server_memory
from llamarig.items.releases import release_differences, release_queries, releases_of
from llamarig.items.simulated_gpus import simulation_library
from llamarig.items.wanted_unit import staying_units
from llamarig.placement.declared_placement import declared_flags, measure_declared
from llamarig.placement.devices import simulated_devices, simulation_environment, with_set_aside, with_uuids
from llamarig.placement.dry_run import (
    DryRunError,
    draft_arguments,
    dry_run_command,
    dry_runs_command,
    measured_on_last_arguments,
    parse_prediction,
    server_outputs,
    short_vocabulary_command,
    used_devices_arguments,
    vision_mib,
)
from llamarig.placement.fallbacks import MIN_UBATCH, NothingFitsError
from llamarig.placement.pinned_weights import KNOWN_TO_FIT, may_be_pinned, pinning
from llamarig.placement.plan_request import PlanRequest
from llamarig.placement.plan_runs import TooManyDryRunsError, performed
from llamarig.placement.planned_loading import Pinning
from llamarig.placement.planner import make_plan
from llamarig.placement.speculation_memory import dependent_draft_mib, needs_its_model
from llamarig.placement.staleness import plan_flags
from llamarig.records.model_lock import LockedModel
from llamarig.records.plan_file import MeasuredPlacement, Plan, PlanInputs, PlannedDevice
from llamarig.remote.shared.gguf_header import combined_header, digest_of
from llamarig.render import layout
from llamarig.render.build_flags import FlagRefusedError
from llamarig.render.model_paths import model_files, target
from llamarig.render.release import release_id
from llamarig.render.sandboxed_run import dry_run_sandbox
from llamarig.render.unit_text import unit_environment

SIDE_BY_SIDE = 2
"""Dry runs at a time. Each takes some 600 MiB of every card for its context, and nearly all of its time is spent on
those."""


@dataclass(frozen=True)
class Prerequisites:
    """What planning a model needs: its complete release and its lock entry."""

    release: Release
    locked: LockedModel


def prerequisite_queries(rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
    """What ``prerequisites`` reads, and the capacity that plans depend on."""
    yield from release_queries(rig)
    yield query(Capacity)


def prerequisites(rig: Rig, seen: Seen, models: Sequence[Model]) -> dict[str, Prerequisites]:
    """Model name -> prerequisites, for models whose release is complete and whose lock entry exists.

    :raises PlanError: if the model lock cannot be read
    """
    if seen.here.lock_problem:
        raise PlanError(seen.here.lock_problem)
    releases, found = releases_of(rig, seen), {}
    for model, locked in zip(rig.models, seen.here.locked or (), strict=False):
        path = release_of(rig, model)
        release = releases.get(path, Release())
        if model in models and not release_differences(path, release):
            found[model.name] = Prerequisites(release, locked)
    return found


def check_release(rig: Rig, model: Model, release: Release) -> None:
    """Check that a release can plan a model, as far as its manifest tells.

    :raises PlanError: if it lacks llama-fit-params, or a declared flag
    """
    if "llama-fit-params" not in release.files:
        raise PlanError(
            f"model {model.name!r} cannot be planned: release {release_of(rig, model).rsplit('/', 1)[-1][:20]} has no "
            "llama-fit-params; choose a newer llama.cpp, or declare layers(...)"
        )
    _flags(model, release)


def planned(rig: Rig, seen: Seen, model: Model) -> Plan:
    """Plan a model by dry runs on this box.

    :raises PlanError: naming what is missing, or why nothing fits
    """
    given = prerequisites(rig, seen, [model]).get(model.name)
    if given is None:
        raise PlanError(f"model {model.name!r} cannot be planned: its release or lock entry is missing; run deploy.py")
    check_release(rig, model, given.release)
    runs = _dry_runs(rig, model, given.locked)
    try:
        request = _plan_request(rig, model, given, runs)
        pinned = _pinning(rig, seen, model, given, request.inputs.devices)
        known = tuple(seen.here.margins.get(model.name, ()))
        return performed(make_plan(replace(request, pinning=pinned, measured=known)), runs.run_all)
    except (NothingFitsError, DryRunError, TooManyDryRunsError) as error:
        if full := full_gpus(error, ask(HeldByServers)):
            raise FullGpusError(f"model {model.name!r} cannot be planned{full}") from None
        raise PlanError(f"model {model.name!r} cannot be planned: {error}") from None
    finally:
        _run(f"rm -rf {runs.directory}")


def measured(rig: Rig, model: Model, given: Prerequisites) -> MeasuredPlacement:
    """Measure the memory of a declared placement by dry runs; the result names the reason if the program fails.

    :param model: as it would be served with pinned weights
    :raises PlanError: for problems that may be temporary: no GPU, missing files, GPUs in use
    """
    runs = _dry_runs(rig, model, given.locked)
    try:
        request = _plan_request(rig, model, given, runs)
        return performed(measure_declared(request), runs.run_all)
    except DryRunError as error:
        if full := full_gpus(error, ask(HeldByServers)):
            raise FullGpusError(f"model {model.name!r} cannot be measured{full}") from None
        if re.search(r"CUDA error|exit status 124", str(error)):
            raise PlanError(f"model {model.name!r} cannot be measured now: {error}") from None
        return MeasuredPlacement(
            shards=tuple(shard.sha256 for shard in given.locked.shards),
            release=release_id(rig.build_of(model), rig.models),
            flags=declared_flags(model, given.release.flags),
            failed=f"no dry run could show how much memory that takes: {error}",
        )
    finally:
        _run(f"rm -rf {runs.directory}")


def full_gpus(error: Exception, held: HeldMemory) -> str | None:
    """How to make room where a dry run found no memory on a GPU; None for another error.

    A dry run loads no weights, but the context of its process took 560 MiB on an H200 (tests/gpu/RESULTS.md), which is
    more than a plan leaves free beside the server that it is for.

    :param held: memory of the running servers
    """
    if not re.search(r"out of memory", str(error)):
        return None
    stop = f"on the box, `systemctl stop {' '.join(sorted(held.vram_mib))}`" if held.vram_mib else "nvidia-smi lists it"
    return (
        " now: a GPU has no room for a dry run, which takes some 600 MiB beside what runs there. Stop what fills it "
        f"({stop}) and run this again; a deploy starts models again"
    )


@dataclass(frozen=True)
class _DryRuns:
    """How the dry runs of one model are made: as its unit would be run, so that they show what it can use.

    ``shards``: headers of the model, which are read; ``directory``: for copies of them with a shorter vocabulary.
    """

    release: str
    environment: dict[str, str]
    shards: list[str]
    directory: str
    sandbox: list[str]

    def run(self, arguments: Sequence[str]) -> str:
        """The output of one."""
        return _run(dry_run_command(self.release, arguments, self.environment, self.sandbox))

    def run_all(self, requests: Sequence[Sequence[str]]) -> list[str]:
        """The outputs of several, side by side; those for whose contexts a GPU had no room are made again alone."""
        found: list[str] = []
        for start in range(0, len(requests), SIDE_BY_SIDE):
            some = requests[start : start + SIDE_BY_SIDE]
            found += self._together(some) if len(some) > 1 else [self.run(some[0])]
        return found

    def _together(self, requests: Sequence[Sequence[str]]) -> list[str]:
        line = dry_runs_command(self.release, self.environment, self.sandbox, len(requests))
        found = outputs_of(_run(line, json.dumps([list(each) for each in requests])))
        outputs = [found.get(number, "") for number in range(len(requests))]
        if any("out of memory" in output for output in outputs):
            return [self.run(each) for each in requests]
        return outputs


def _dry_runs(rig: Rig, model: Model, locked: LockedModel) -> _DryRuns:
    """Describe the dry runs of a model.

    :raises PlanError: if the box has neither its files nor their headers
    """
    build, release = rig.build_of(model), release_of(rig, model)
    shards, directory = _shards(model, locked), f"{layout.HEADERS}/.short-{model.name}"
    environment = unit_environment(model, build)
    read = [*shards, directory, *filter(None, [model_files(locked).draft]), *model.serve.readable_paths]
    if rig.simulated_gpus:
        library = simulation_library(build)
        environment |= simulation_environment(rig.simulated_gpus, library)
        read.append(library)
    return _DryRuns(release, environment, shards, directory, dry_run_sandbox(build, release, read))


def _pinning(rig: Rig, seen: Seen, model: Model, given: Prerequisites, devices: Sequence[PlannedDevice]) -> Pinning:
    """What decides whether the weights in RAM of a planned model are pinned, beside the other models of the box."""
    if may_be_pinned(rig, model) and not {"--load-mode", "--no-mmap"} & given.release.flags:
        return Pinning(obstacle=f"this build of llama-server has no flag for it: {KNOWN_TO_FIT}")
    locked = seen.here.locked
    memory = server_memory(rig, seen, releases_of(rig, seen), locked) if locked is not None else {}
    return pinning(rig, model, memory, ask(Capacity), devices)


def _run(line: str, stdin: str = "") -> str:
    """The output of a command on the reserved box."""
    output = run_reserved(line, stdin)
    if "No module named" in output.stderr:
        raise PlanError("llamarig's programs on the box are older than this repository: run deploy.py")
    return str(output.stdout)


def _devices(rig: Rig, model: Model, runs: _DryRuns, vram: dict[str, int]) -> list[PlannedDevice]:
    if rig.simulated_gpus:
        devices = simulated_devices(rig.simulated_gpus)
    else:
        devices = _listed_devices(runs, runs.sandbox)
        if not devices and (as_root := _listed_devices(runs, None)):
            raise PlanError(
                f"model {model.name!r} cannot be planned: as root its release sees "
                f"{', '.join(device.name for device in as_root)}, and as the user {layout.USER} in the sandbox of its "
                "unit none: look at the modes of the device nodes (ls -l /dev/nvidia* /dev/dri /dev/kfd), and whether "
                "their names in /proc/devices are among DeviceAllow= in tasks/llamarig/render/sandbox.py"
            )
    if devices:
        # llama.cpp lists devices that it does not use: integrated graphics beside a card, or GPUs excluded by a flag.
        names = [device.name for device in devices] if rig.simulated_gpus else []
        output = runs.run(used_devices_arguments(model, runs.shards[0], names))
        used = parse_prediction(output, f"llama-fit-params with model {model.name!r}")
        listed = {device.name: device for device in devices}
        # In the order in which it fills them: that of serve.gpus, where it names them.
        devices = [listed[row.name] for row in used.gpus if row.name in listed]
    if not devices:
        raise PlanError(
            f"model {model.name!r} cannot be planned: its release sees no GPU here; install the driver, choose a "
            "build with a GPU backend, or declare cpu_only(); or plan for GPUs that are not here with "
            "rig(simulated_gpus=...)"
        )
    gpus = ask(Gpus)
    matched = with_uuids(devices, gpus.gpus, model.serve.gpus, vram)
    return matched if rig.simulated_gpus else with_set_aside(matched, gpus.amd)


def _listed_devices(runs: _DryRuns, sandbox: Sequence[str] | None) -> list[PlannedDevice]:
    found: list[PlannedDevice] = ask(
        PlannableDevices, release=runs.release, environment=runs.environment, sandbox=sandbox
    )
    return found


def _plan_request(rig: Rig, model: Model, given: Prerequisites, runs: _DryRuns) -> PlanRequest:
    auto, shards = model.serve.placement, runs.shards
    read = ask(ModelHeaders, paths=shards)
    headers = read.of(shards)
    if headers is None:
        raise PlanError(
            f"model {model.name!r} cannot be planned: llama.cpp would not read {read.problem(shards)}; "
            "run deploy.py --data deep=1, which verifies every byte of the model files and fetches damaged ones again"
        )
    held = ask(HeldByServers)
    # Beside a model that coexists with others these keep what they hold: only replaced servers make room.
    staying = staying_units(rig, model)
    freed = {} if rig.simulated_gpus else held.freed_vram_mib(staying)
    devices = _devices(rig, model, runs, freed)
    try:
        margins = auto.margins(len(devices)) if isinstance(auto, Auto) else (0,) * len(devices)
    except ValueError as error:
        raise PlanError(f"model {model.name!r}: {error}") from None
    short = _short(model, runs)
    inputs = PlanInputs(
        header=digest_of(headers),
        shards=tuple(shard.sha256 for shard in given.locked.shards),
        devices=tuple(devices),
        margins_mib=margins,
        others_mib=_others(rig, model, given, runs, devices, short),
        flags=_flags(model, given.release),
        release=release_id(rig.build_of(model), rig.models),
        load_mode=model.serve.load_mode,
        offload_min_batch=model.serve.environment.get(OFFLOAD_MIN_BATCH, ""),
    )
    return PlanRequest(
        model=model,
        flags=given.release.flags,
        header=combined_header(headers),
        header_path=shards[0],
        short_header_path=short,
        simulated=bool(rig.simulated_gpus),
        inputs=inputs,
        ram_available_mib=held.available_mib(staying),
        box_ram_mib=ask(Capacity).ram >> 20,
    )


def _flags(model: Model, release: Release) -> tuple[str, ...]:
    try:
        return plan_flags(model, release.flags)
    except FlagRefusedError as error:
        raise PlanError(f"model {model.name!r}: {error}") from None


def _shards(model: Model, locked: LockedModel) -> list[str]:
    """Paths on the box of the shards, or of sparse copies of them.

    :raises PlanError: if the box has neither
    """
    stored = ask(ModelStore).files
    shards = [target(locked, shard) for shard in locked.shards]
    if all(shard in stored for shard in shards):
        return shards
    copies = sparse_paths(locked)
    sizes = ask(FileSizes, paths=copies)
    if [sizes.get(copy) for copy in copies] == [shard.size for shard in locked.shards]:
        return copies
    raise PlanError(f"model {model.name!r} cannot be planned: neither its files nor their headers are on the box")


def _short(model: Model, runs: _DryRuns) -> str | None:
    """A header with which a dry run reserves as many logits as the server; None if the original one does.

    Also None if it cannot be made: then the plan reserves more than the server uses, which is safe.
    """
    outputs, ubatch = server_outputs(model), min(model.serve.ubatch, model.serve.batch)
    auto = model.serve.placement
    if isinstance(auto, Auto) and "ubatch" in auto.give_up:
        ubatch = min(ubatch, MIN_UBATCH)  # its ratio is enough for every ubatch that may be tried
    if outputs >= ubatch:
        return None
    _run(f"install -d -m 700 -o {layout.USER} {runs.directory}")
    output = _run(short_vocabulary_command(runs.directory, outputs, ubatch, runs.shards)).strip()
    if not output.startswith("/"):
        why = output.removeprefix("error: ") or "no output"
        say(host, f"{model.name}: planned with more logits than llama-server reserves: {why}")
        return None
    return output


def _others(
    rig: Rig, model: Model, given: Prerequisites, runs: _DryRuns, devices: list[PlannedDevice], short: str | None
) -> tuple[int, ...]:
    """MiB on each GPU that a dry run of the model does not include: vision projector and draft model.

    :param short: the model's header with a shorter vocabulary, if there is one
    """
    others = [0] * len(devices)
    locked = given.locked
    if locked.mmproj is not None and model.serve.mmproj_offload:
        others[0] += vision_mib(locked.mmproj.size)
    draft = model_files(locked).draft
    if draft is not None:
        names = [device.name for device in devices] if rig.simulated_gpus else []
        headers = ask(ModelHeaders, paths=[draft]).of([draft])
        if headers is not None and needs_its_model(headers[0]):
            # llama-fit-params cannot load it: it ends with an error, or a segmentation fault.
            output = runs.run(
                measured_on_last_arguments(model, runs.shards[0], given.release.flags, len(devices), names)
            )
            predicted = parse_prediction(output, f"llama-fit-params with model {model.name!r}")
            drafts = dependent_draft_mib(predicted, model, headers[0])
            say(host, f"{model.name}: its draft cannot be measured alone, so {max(drafts)} MiB for it are an estimate")
        else:
            output = runs.run(draft_arguments(model, draft, names))
            predicted = parse_prediction(output, f"llama-fit-params with the draft of {model.name!r}")
            drafts = tuple(row.total_mib for row in predicted.gpus)
        others = [other + mib for other, mib in zip(others, drafts, strict=True)]
    return tuple(others) if any(others) else ()
