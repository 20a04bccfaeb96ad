"""Margins measured on the box, in place of the default ones.

A dry run shows a server's buffers. What it takes beyond them (kernels that are loaded when first used, pools of the
driver, pinned weights) was 260 to 316 MiB of a card on H200s and is another number on other cards, drivers and builds.
So tasks/bench.py sends two long prompts to a planned model and records what its plan had not predicted; the next plan
for the same cards, release, flags and load mode keeps that free, and ``SAFETY_MIB``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llamarig.declare.placement import DEFAULT_MARGIN_MIB
from llamarig.declare.serve.weights import UNMAPPED, LoadMode
from llamarig.placement.pinned_weights import raised_margins
from llamarig.records.plan_file import MeasuredMargin, Plan, PlanInputs, PlannedDevice
from llamarig.records.timing_changes import release_of
from llamarig.render.placement_arguments import placement_arguments

SAFETY_MIB = 128
"""MiB kept free beyond what was measured, for prompts that are longer than the two measured ones, and for a display.
From loading to a prompt of 48,000 tokens the use of a card grew by 144 and 154 MiB (H200, pinned commit:
tests/gpu/RESULTS.md)."""


class CannotMeasureError(Exception):
    """The margin of a running server cannot be measured; the message says why, and what to do."""


class Card(Protocol):
    """A card as its driver reports it: its UUID, empty if unknown, and its free memory."""

    @property
    def uuid(self) -> str:
        """UUID, empty if unknown."""

    @property
    def free_mib(self) -> int:
        """Free memory in MiB."""


@dataclass(frozen=True)
class Margins:
    """MiB that a plan keeps free on each GPU. ``default_mib``: what it would be without the measurement."""

    mib: tuple[int, ...]
    default_mib: tuple[int, ...]
    measured: MeasuredMargin | None = None


def margins_of(inputs: PlanInputs, known: Iterable[MeasuredMargin], *, pinned: bool, raised: bool) -> Margins:
    """Margins of a plan: as declared; the default ones as measured, where they were.

    :param inputs: of the plan, with the declared margins
    :param pinned: whether weights in RAM will be pinned
    :param raised: whether unmeasured margins are then raised
    """
    declared = inputs.margins_mib
    default = raised_margins(declared) if pinned and raised else declared
    found = next((one for one in known if _is_of(one, inputs, pinned=pinned)), None)
    if found is None or DEFAULT_MARGIN_MIB not in declared:
        return Margins(default, default)
    measured = [beyond + SAFETY_MIB for beyond in found.beyond_mib]
    each = zip(declared, default, measured, strict=True)
    mib = tuple(new if wanted == DEFAULT_MARGIN_MIB else kept for wanted, kept, new in each)
    return Margins(mib, default, found)


def cards_of(devices: Sequence[PlannedDevice]) -> tuple[str, ...]:
    """The UUIDs of a plan's GPUs; empty texts where unknown."""
    return tuple(device.uuid for device in devices)


def is_pinned(mode: LoadMode) -> bool:
    """Whether a load mode reads weights into buffers that a CUDA build pins."""
    return mode in UNMAPPED


def _is_of(one: MeasuredMargin, inputs: PlanInputs, *, pinned: bool) -> bool:
    return (
        one.cards == cards_of(inputs.devices)
        and all(one.cards)
        and one.release == inputs.release
        and one.flags == inputs.flags
        and one.offload_min_batch == (inputs.offload_min_batch or "")
        and is_pinned(one.load_mode) == pinned
    )


def served_load_mode(arguments: Sequence[str]) -> LoadMode:
    """The load mode in a server's command line, in the flags of this llama.cpp or of older ones."""
    words = list(arguments)
    modes: dict[str, LoadMode] = {"none": "none", "mmap": "mmap", "mlock": "mlock", "mmap+mlock": "mmap+mlock"}
    modes |= {"dio": "dio", "auto": "auto"}
    for flag in ("--load-mode", "-lm"):
        if flag in words[:-1]:
            return modes.get(words[words.index(flag) + 1], "auto")
    if "--no-mmap" in words:
        return "mlock" if "--mlock" in words else "none"
    return "mmap+mlock" if "--mlock" in words else "auto"


def served_otherwise(plan: Plan, arguments: Sequence[str]) -> str:
    """Why a server's command line is not what the plan predicts; empty where it is."""
    if not arguments:
        return "its command line cannot be read"
    release = release_of(arguments)
    if release != plan.belongs.release:
        return f"it runs release {release[:12]}, and the plan is for {plan.belongs.release[:12]}"
    if plan.proposals:
        return "it had to start with fewer layers than planned"
    if plan.given_up:
        return "its plan has lowered a declared setting"
    expected = [("--ctx-size", str(plan.context)), ("--ubatch-size", str(plan.ubatch))]
    expected += [("--cache-type-k", plan.cache_type_k), ("--cache-type-v", plan.cache_type_v)]
    expected += [(flag, value) for flag, value in placement_arguments(plan.placement)]
    words = list(arguments)
    for flag, value in expected:
        given = words[words.index(flag) + 1] if flag in words[:-1] else "nothing"
        if given != value:
            return f"it runs with {flag} {given}, and the plan says {value}"
    return ""


def measured_margin(
    plan: Plan,
    arguments: Sequence[str],
    cards: Sequence[Card],
    held_mib: Mapping[str, int],
    *,
    prompt_tokens: int,
    date: str,
) -> MeasuredMargin:
    """What a server has taken on each GPU beyond its plan, from what is free after long prompts.

    Memory that other programs took or freed since the plan was made is not counted where the driver names the server's
    own share.

    :param arguments: the server's command line
    :param cards: the box's GPUs now
    :param held_mib: MiB that the server holds, by UUID; empty where the driver does not tell
    :raises CannotMeasureError: where the server is not as planned, or the driver does not report its GPUs
    """
    if why := served_otherwise(plan, arguments):
        raise CannotMeasureError(f"{why}: run deploy.py, or plan again, then measure")
    free = {card.uuid: card.free_mib for card in cards if card.uuid}
    beyond, left = [], []
    others = plan.belongs.others_mib or (0,) * len(plan.gpus)
    for device, row, other in zip(plan.belongs.devices, plan.gpus, others, strict=True):
        if device.uuid not in free:
            raise CannotMeasureError(
                f"its driver does not report {device.name} ({device.description}) by a UUID, so what is left there is "
                "not known: declare margin_mib"
            )
        now = free[device.uuid]
        drift = now + held_mib[device.uuid] - device.driver_free_mib if _is_compared(device, held_mib) else 0
        left.append(now)
        beyond.append(max(0, device.free_mib + drift - row.total_mib - other - now))
    return MeasuredMargin(
        cards=cards_of(plan.belongs.devices),
        release=plan.belongs.release,
        flags=plan.belongs.flags,
        load_mode=served_load_mode(arguments),
        offload_min_batch=plan.belongs.offload_min_batch or "",
        beyond_mib=tuple(beyond),
        left_mib=tuple(left),
        prompt_tokens=prompt_tokens,
        date=date,
    )


def _is_compared(device: PlannedDevice, held_mib: Mapping[str, int]) -> bool:
    return bool(device.driver_free_mib) and device.uuid in held_mib
