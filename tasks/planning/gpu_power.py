"""NVIDIA cards made ready at boot: the declared power limits, which card each is for, and the unit that sets them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.planning.difference import Difference
from tasks.planning.gpu_use import vendor_of
from tasks.planning.gpus import Gpu, GpuState
from tasks.spec.host_policy import GpuCard


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
    for index, card in enumerate(declared):
        if card.power_limit_w and vendor_of(card) != "nvidia":
            raise PowerLimitError(
                f"host.gpus[{index}] is {card.name}, and nvidia-smi sets the limits of NVIDIA's cards alone: leave its "
                "power_limit_w out"
            )
    of_nvidia = [(index, card) for index, card in enumerate(declared) if vendor_of(card) == "nvidia"]
    wanted = [
        (index, place, card, card.power_limit_w) for place, (index, card) in enumerate(of_nvidia) if card.power_limit_w
    ]
    if wanted and not state.gpus:
        raise PowerLimitError(
            f"host.gpus declares a power limit, which nvidia-smi sets, and {state.problem}: install the NVIDIA driver "
            "with your distribution's packages, or leave power_limit_w out"
        )
    limits = []
    for index, place, card, watts in wanted:
        found = state.gpus[place] if place < len(state.gpus) else None
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
    """Which card has another limit than declared, or forgets it when it is idle; one a card."""
    found = []
    for limit in limits:
        card, wanted, had = limit.card, list[str](), list[str]()
        if abs(card.power_limit_w - limit.watts) >= 1:
            wanted.append(f"{limit.watts:g} W (host.gpus)")
            had.append(f"{card.power_limit_w:g} W")
        if card.persistence is False:
            # Without persistence mode the driver lets go of an idle card, and forgets its power limit.
            wanted.append("persistence mode on, so that it keeps its limit")
            had.append("persistence mode off")
        if wanted:
            found.append(Difference(f"{card.name} ({card.bus_id})", ", ".join(wanted), ", ".join(had)))
    return found


_DEVICES = """\
# On first use CUDA has its kernel module loaded and its devices made, by a program that becomes root. A model's unit
# may not do that (NoNewPrivileges), and which devices it may open is decided before it runs: so it is done here.
ExecStart=-nvidia-modprobe -u -c 0
ExecStart=-nvidia-smi --list-gpus"""


def service_text(limits: Sequence[PowerLimit], cuda: bool) -> str:
    """The oneshot unit that runs before any model's: devices there, limits set. Stopping it puts the defaults back.

    :param cuda: whether a model of the box is served by a CUDA build
    """
    starts, stops = [_DEVICES] if cuda else [], []
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
        "Description=NVIDIA devices and their declared power limits, before any model",
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
