"""Compares the inputs of a plan with the current ones, and describes the differences."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from llamarig.declare.model import Model
from llamarig.declare.placement import AllOnGpu, Auto
from llamarig.declare.serve.weights import OFFLOAD_MIN_BATCH, LoadMode
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.placement.dry_run import memory_arguments
from llamarig.placement.pinned_weights import raised_margins
from llamarig.placement.speculation_memory import speculation_settings
from llamarig.records.plan_file import MeasuredPlacement, Plan, PlannedDevice
from llamarig.render.server_arguments import ModelFiles, server_arguments


@dataclass(frozen=True)
class CurrentInputs:
    """What is declared and present now, to be compared with the inputs of a plan.

    ``shards``: sha256 from the model lock. ``uuids``: of the box's GPUs, None if unknown. ``simulated``: GPUs that are
    planned for in place of the box's own.
    """

    shards: tuple[str, ...]
    release: str
    flags: tuple[str, ...]
    auto: Auto | None = None
    uuids: frozenset[str] | None = None
    simulated: tuple[SimulatedGpu, ...] = ()
    load_mode: LoadMode | None = None
    """As declared; None where it is not compared."""
    offload_min_batch: str = ""
    """GGML_OP_OFFLOAD_MIN_BATCH as declared: from how many tokens on the GPU computes with experts in RAM."""


def plan_flags(model: Model, build_flags: Collection[str]) -> tuple[str, ...]:
    """The declared arguments and settings that a plan depends on, without those that the plan itself decides.

    :raises FlagRefusedError: if the build does not support a declared setting
    """
    auto = model.serve.placement
    serve = model.serve.model_copy(update={"placement": AllOnGpu()})
    arguments = server_arguments(model.model_copy(update={"serve": serve}), ModelFiles("-"), build_flags)
    give_up = [f"give_up={what}" for what in auto.give_up] if isinstance(auto, Auto) else []
    files = [f"{name}={path}" for name, path in (("mmproj", model.mmproj), ("draft", model.draft)) if path]
    return (*memory_arguments(arguments, placement=False), *give_up, *files, *speculation_settings(model))


def staleness(plan: Plan, now: CurrentInputs) -> list[str]:
    """A line for each input of a plan that has changed; empty if the plan is up to date."""
    planned = plan.belongs
    changes = []
    if planned.shards != now.shards:
        changes.append(f"the model's files: planned for {_digests(planned.shards)}, locked to {_digests(now.shards)}")
    if planned.release != now.release:
        changes.append(f"llama.cpp: planned with release {_short(planned.release)}, declared is {_short(now.release)}")
    if planned.flags != now.flags:
        changes.append(f"flags: {_flag_changes(planned.flags, now.flags)}")
    if now.load_mode is not None and planned.load_mode not in (None, now.load_mode):
        changes.append(f"load_mode {planned.load_mode} is now {now.load_mode}")
    if planned.offload_min_batch not in (None, now.offload_min_batch):
        before, after = planned.offload_min_batch or "not declared", now.offload_min_batch or "not declared"
        changes.append(f"{OFFLOAD_MIN_BATCH}: planned with {before}, now {after}")
    changes += _margin_changes(plan, now.auto) if now.auto is not None else []
    changes += _device_changes(planned.devices, now)
    return changes


def is_current(measured: MeasuredPlacement, now: CurrentInputs) -> bool:
    """Whether no input of a measurement has changed. One without devices failed, and would fail again."""
    if (measured.shards, measured.release, measured.flags) != (now.shards, now.release, now.flags):
        return False
    return not (measured.devices and _device_changes(measured.devices, now))


def _digests(shards: Sequence[str]) -> str:
    return ", ".join(f"{digest[:12]}..." for digest in shards) or "none"


def _short(release: str) -> str:
    commit, _, key = release.partition("-")
    return f"{commit[:12]}-{key}"


def _flag_changes(before: Sequence[str], now: Sequence[str]) -> str:
    old, new = _pairs(before), _pairs(now)
    changes = [
        f"{flag} {old[flag]} is now {new[flag]}".strip() for flag in old if flag in new and old[flag] != new[flag]
    ]
    changes += [f"{flag} {old[flag]}".strip() + " is no longer declared" for flag in old if flag not in new]
    changes += [f"{flag} {new[flag]}".strip() + " is new" for flag in new if flag not in old]
    return ", ".join(changes) or "in another order"


def _pairs(arguments: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    flag = ""
    for argument in arguments:
        if argument.startswith("-") and not argument.lstrip("-").isdigit():
            flag = argument
            pairs[flag] = ""
        elif "=" in argument:
            pairs[argument] = ""
        else:
            pairs[flag] = f"{pairs.get(flag, '')} {argument}".strip()
    return pairs


def _margin_changes(plan: Plan, auto: Auto) -> list[str]:
    """A measured margin takes the place of the default one, so that one is compared."""
    planned = plan.margin.instead_mib if plan.margin is not None else plan.belongs.margins_mib
    try:
        margins = auto.margins(len(plan.belongs.devices))
    except ValueError as error:
        return [f"margins: {error}"]
    if planned in (margins, raised_margins(margins)):
        return []
    return [f"margins: planned with {_mib(planned)}, declared {_mib(margins)}"]


def _mib(values: Sequence[int]) -> str:
    return "/".join(str(value) for value in values) + " MiB"


def _device_changes(devices: Sequence[PlannedDevice], now: CurrentInputs) -> list[str]:
    if now.simulated:
        planned = [(device.description, device.total_mib, device.free_mib) for device in devices]
        declared = [(gpu.name, gpu.total_mib, gpu.free_mib) for gpu in now.simulated]
        if planned == declared:
            return []
        return [f"simulated GPUs: planned for {_cards(planned)}, declared {_cards(declared)}"]
    known = {device.uuid for device in devices if device.uuid}
    if now.uuids is None or not known or known <= now.uuids:
        return []
    gone = ", ".join(f"{device.description} {device.uuid}" for device in devices if device.uuid not in now.uuids)
    return [f"GPUs: planned for {gone}, the box has {', '.join(sorted(now.uuids)) or 'none'}"]


def _cards(cards: Sequence[tuple[str, int, int]]) -> str:
    return ", ".join(f"{name} ({free} of {total} MiB free)" for name, total, free in cards)


def plan_changes(before: Plan, after: Plan) -> list[str]:
    """A line for each decision of a new plan that differs from the one before, and for each change of free memory."""
    changes = []
    old, new = before.placement, after.placement
    if (old.gpu, old.split, old.partial, old.in_ram) != (new.gpu, new.split, new.partial, new.in_ram):
        changes.append(
            f"whole layers {_sum(old.gpu)} become {_sum(new.gpu)}, split {','.join(map(str, old.split))} becomes "
            f"{','.join(map(str, new.split))}"
        )
    for field in ("context", "ubatch", "cache_type_k", "cache_type_v"):
        one, other = getattr(before, field), getattr(after, field)
        if one != other:
            changes.append(f"{field} {one} becomes {other}")
    if before.loading is not None and after.loading is not None and before.loading.mode != after.loading.mode:
        changes.append(f"load_mode {before.loading.mode} becomes {after.loading.mode}")
    if not changes:
        return []  # a change of free memory that changes no decision is not reported
    pairs = zip(before.belongs.devices, after.belongs.devices, strict=False)
    free = [
        f"{other.name} has {other.free_mib} MiB free, before {one.free_mib}"
        for one, other in pairs
        if one.free_mib != other.free_mib
    ]
    return changes + free


def _sum(whole: Sequence[int]) -> str:
    return " + ".join(str(count) for count in whole)
