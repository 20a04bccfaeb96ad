"""Whether a plan still belongs to what is declared and what is there; if not, why, in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tasks.planning.flags import ModelFiles, server_arguments
from tasks.planning.pinned_weights import raised_margins
from tasks.planning.plans.dry_run import memory_arguments
from tasks.spec.model import Model
from tasks.spec.placement import AllOnGpu, Auto
from tasks.spec.plan_file import Belongs, MeasuredPlacement, Plan, PlannedDevice
from tasks.spec.simulated_gpu import SimulatedGpu


@dataclass(frozen=True)
class Present:
    """What is declared and there now. ``shards``: sha256 of the model lock. ``uuids``: of the box, None where unknown;
    ``simulated``: the GPUs planned for in place of the box's own."""

    shards: tuple[str, ...]
    release: str
    flags: tuple[str, ...]
    auto: Auto | None = None
    uuids: frozenset[str] | None = None
    simulated: tuple[SimulatedGpu, ...] = ()


def flags_of(model: Model, build_flags: Collection[str]) -> tuple[str, ...]:
    """What of a model's declaration decides memory, as the arguments of a dry run; not what the plan itself decides.

    :raises FlagRefusedError: when the build cannot do what is declared
    """
    auto = model.serve.placement
    serve = model.serve.model_copy(update={"placement": AllOnGpu()})
    arguments = server_arguments(model.model_copy(update={"serve": serve}), ModelFiles("-"), build_flags)
    concessions = [f"give_up={what}" for what in auto.give_up] if isinstance(auto, Auto) else []
    files = [f"{name}={path}" for name, path in (("mmproj", model.mmproj), ("draft", model.draft)) if path]
    return (*memory_arguments(arguments, placement=False), *concessions, *files)


def staleness(plan: Plan, now: Present) -> list[str]:
    """A line for each thing that is no longer what the plan was made for; empty for a plan that holds."""
    belongs = plan.belongs
    found = []
    if belongs.shards != now.shards:
        found.append(f"the model's files: planned for {_digests(belongs.shards)}, locked to {_digests(now.shards)}")
    if belongs.release != now.release:
        found.append(f"llama.cpp: planned with release {_short(belongs.release)}, declared is {_short(now.release)}")
    if belongs.flags != now.flags:
        found.append(f"flags: {_flag_changes(belongs.flags, now.flags)}")
    found += _margin_changes(belongs, now.auto) if now.auto is not None else []
    found += _device_changes(belongs.devices, now)
    return found


def measured_changes(measured: MeasuredPlacement, now: Present) -> list[str]:
    """A line for each thing that a measured placement is no longer true for; empty where it still is."""
    found = [] if measured.shards == now.shards else ["the model's files"]
    found += [] if measured.release == now.release else ["the release"]
    found += [] if measured.flags == now.flags else [_flag_changes(measured.flags, now.flags)]
    return found + (_device_changes(measured.devices, now) if measured.devices else [])


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


def _margin_changes(belongs: Belongs, auto: Auto) -> list[str]:
    try:
        margins = auto.margins(len(belongs.devices))
    except ValueError as error:
        return [f"margins: {error}"]
    if belongs.margins_mib in (margins, raised_margins(margins)):
        return []
    return [f"margins: planned with {_mib(belongs.margins_mib)}, declared {_mib(margins)}"]


def _mib(values: Sequence[int]) -> str:
    return "/".join(str(value) for value in values) + " MiB"


def _device_changes(devices: Sequence[PlannedDevice], now: Present) -> list[str]:
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
    """What a new plan decides otherwise than the one before, and what brought it about."""
    found = []
    old, new = before.placement, after.placement
    if (old.gpu, old.split, old.partial, old.in_ram) != (new.gpu, new.split, new.partial, new.in_ram):
        found.append(
            f"whole layers {_sum(old.gpu)} become {_sum(new.gpu)}, split {','.join(map(str, old.split))} becomes "
            f"{','.join(map(str, new.split))}"
        )
    for field in ("context", "ubatch", "cache_type_k", "cache_type_v"):
        one, other = getattr(before, field), getattr(after, field)
        if one != other:
            found.append(f"{field} {one} becomes {other}")
    if not found:
        return []  # some MiB more or less free, which changes nothing
    pairs = zip(before.belongs.devices, after.belongs.devices, strict=False)
    free = [
        f"{other.name} has {other.free_mib} MiB free, before {one.free_mib}" for one, other in pairs if one != other
    ]
    return found + free


def _sum(whole: Sequence[int]) -> str:
    return " + ".join(str(count) for count in whole)
