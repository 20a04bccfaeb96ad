"""The declared power limits: which card each is for, what is not so, and the unit that sets them after a boot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.planning.difference import Difference
from tasks.planning.gpus import Gpu, GpuState
from tasks.spec.host_policy import GpuCard

SERVICE = "llamarig_power.service"
"""With an underscore, which no model's name has: `llamarig-*` are the models."""


class PowerLimitError(ValueError):
    """A declared limit cannot be set on this box; the message says why and what to do."""


@dataclass(frozen=True)
class PowerLimit:
    """One card's declared limit."""

    card: Gpu
    watts: float


def power_limits(declared: Sequence[GpuCard], state: GpuState) -> list[PowerLimit]:
    """The declared limits, each with the card it is meant for: the one at its place in nvidia-smi's order.

    :raises PowerLimitError: when a card is not there, is another one, or cannot be set to it
    """
    wanted = [(index, card, card.power_limit_w) for index, card in enumerate(declared) if card.power_limit_w]
    if wanted and not state.gpus:
        raise PowerLimitError(
            f"host.gpus declares a power limit, which nvidia-smi sets, and {state.problem}: install the NVIDIA driver "
            "with your distribution's packages, or leave power_limit_w out"
        )
    limits = []
    for index, card, watts in wanted:
        found = state.gpus[index] if index < len(state.gpus) else None
        if found is None or not is_card(card, found):
            there = f"it is {found.name} {found.uuid}" if found else f"there are {len(state.gpus)}"
            raise PowerLimitError(
                f"host.gpus[{index}] is {card.name} {card.uuid or ''}".rstrip() + f", and on the box {there}: no limit "
                "is set on a card that was not meant; declare host.gpus as `nvidia-smi -L` lists them"
            )
        if not found.power_limit_w:
            raise PowerLimitError(
                f"{found.name} tells no power limit, so it has none to set: leave host.gpus[{index}].power_limit_w out"
            )
        if found.power_most_w and not found.power_least_w <= watts <= found.power_most_w:
            raise PowerLimitError(
                f"host.gpus[{index}].power_limit_w = {watts:g}: {found.name} takes {found.power_least_w:g} to "
                f"{found.power_most_w:g} W"
            )
        limits.append(PowerLimit(found, watts))
    return limits


def is_card(declared: GpuCard, found: Gpu) -> bool:
    """Whether a card of the box is the declared one, by name and where given by UUID."""
    return declared.name.lower() in found.name.lower() and declared.uuid in (None, found.uuid)


def power_differences(limits: Sequence[PowerLimit]) -> list[Difference]:
    """Which card has another limit than declared, or forgets it when it is idle."""
    found = []
    for limit in limits:
        card, what = limit.card, f"{limit.card.name} ({limit.card.bus_id})"
        if abs(card.power_limit_w - limit.watts) >= 1:
            found.append(Difference(what, f"{limit.watts:g} W (host.gpus)", f"{card.power_limit_w:g} W"))
        if card.persistence is False:
            # Without persistence mode the driver lets go of an idle card, and forgets its power limit.
            found.append(Difference(what, "persistence mode on, so that it keeps its limit", "off"))
    return found


def service_text(limits: Sequence[PowerLimit]) -> str:
    """The oneshot unit that sets the limits: now, and after each boot. Stopping it puts the cards' defaults back."""
    starts, stops = [], []
    for limit in limits:
        card = limit.card
        starts += [
            f"# {card.name}",
            f"ExecStart=nvidia-smi --id={card.uuid} --persistence-mode=1",
            f"ExecStart=nvidia-smi --id={card.uuid} --power-limit={limit.watts:g}",
        ]
        if card.power_default_w:
            stops.append(f"ExecStop=-nvidia-smi --id={card.uuid} --power-limit={card.power_default_w:g}")
    lines = [
        "# Written by llamarig; a later deploy puts edits back.",
        "[Unit]",
        "Description=Power limits of the GPUs, as declared",
        "# nvidia-persistenced, where there is one, would set persistence mode back as it starts.",
        "After=nvidia-persistenced.service",
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        *starts,
        *stops,
        "TimeoutSec=120",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"
