"""The cards of a box: their names and architectures, with and without a driver, and the best one first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llamarig.facts.display_cards import DisplayCard
from llamarig.facts.gpus import UNNAMED, Gpu
from llamarig.items.cards_in_use import AMD_ON_BUS, NVIDIA_ON_BUS, Vendor, large
from llamarig.survey.hardware import Hardware

_ARCHITECTURES = (
    (r"GB20[2-7]", "120a-real"),
    (r"GB20B|GB10\b", "121a-real"),
    (r"GB10[02]", "100a-real"),
    (r"GB11[02]", "103a-real"),
    (r"GH100", "90-real"),
    (r"AD10\d", "89-real"),
    (r"GA10[2-7]", "86-real"),
    (r"GA100", "80-real"),
    (r"TU1\d\d", "75-real"),
    (r"GV100", "70-real"),
    (r"GP10[2-8]", "61-real"),
    (r"GP100", "60-real"),
    (r"GM20\d", "52-real"),
    (r"GM10\d", "50-real"),
)
"""Chip, as the PCI database calls it -> architecture (NVIDIA's list of compute capabilities, by the cards with it)."""
_ARC = re.compile(r"\bArc (?:Pro )?[AB]\d{2,3}\b")
_INTEL_ON_BUS = "0x8086"
_MAKERS = re.compile(r"^(?:NVIDIA|AMD(?:/ATI)?|ATI|Intel(?:\(R\)| Corporation)?|Advanced Micro Devices, Inc\.)\s+")
_SERIES = re.compile(r"^(?:GeForce |Radeon (?=RX )|Intel )")

FIRST_WITH_TENSOR_INSTRUCTIONS = 75
"""The oldest architecture of CUDA 13. Older cards compute without tensor cores, however large their memory is."""


@dataclass(frozen=True)
class Card:
    """A card. ``name``: short, empty where several are meant; ``total_mib``: 0 where no driver tells it."""

    vendor: Vendor
    name: str
    architecture: str = ""
    """Of NVIDIA's: as CMake names it, empty where the name does not tell."""
    uuid: str = ""
    total_mib: int = 0
    display: bool = False
    """Whether a display is connected, or active."""
    shares_ram: bool = False
    index: int = 0
    """Place in nvidia-smi's order."""
    watts: float = 0.0
    """Its default power limit."""
    answers: bool = True
    """Whether its driver shows it."""

    @property
    def number(self) -> int:
        """The number in its architecture: 86; 0 where that is unknown."""
        return int(re.sub(r"\D.*", "", self.architecture) or 0)

    @property
    def gib(self) -> int:
        """Its memory in whole GiB, as it is sold: 24 for 24,564 MiB."""
        return round(self.total_mib / 1024)

    def __str__(self) -> str:
        name = self.name or {"nvidia": "NVIDIA card", "amd": "AMD card"}.get(self.vendor, "card")
        return f"{name} ({self.gib} GB)" if self.total_mib and not self.shares_ram else name


def nvidia_cards(hardware: Hardware) -> list[Card]:
    """NVIDIA's cards, the best first: those that the driver shows, else those on the bus.

    The order: cards that CUDA 13 knows, then the larger memory, the newer architecture, the higher power limit, and of
    equal cards one without a display. No number of nvidia-smi tells how fast a card's memory is.
    """
    state = hardware.gpus
    found = [_of_driver(card, hardware) for card in state.gpus] or [
        Card(
            "nvidia",
            short_name(card.name),
            architecture_of(card.name),
            display=card.displays > 0,
            index=index,
            answers=False,
        )
        for index, card in enumerate(_on_bus(hardware, NVIDIA_ON_BUS))
    ]
    return sorted(
        found,
        key=lambda card: (
            card.number < FIRST_WITH_TENSOR_INSTRUCTIONS,
            -card.gib,
            -card.number,
            -card.watts,
            card.display,
            card.index,
        ),
    )


def other_cards(hardware: Hardware) -> list[Card]:
    """Cards of AMD and Intel, the larger first; integrated graphics of AMD only where there is no card."""
    amd = large(hardware.gpus.amd)
    driven = {card.bus_id for card in hardware.gpus.amd}
    found = [_of_amdgpu(card) for card in amd]
    if not hardware.gpus.amd:
        found += [
            Card("amd", short_name(card.name), display=card.displays > 0, answers=False)
            for card in _on_bus(hardware, AMD_ON_BUS)
            if card.bus_id not in driven
        ]
    found += [
        Card("other", short_name(card.name), display=card.displays > 0)
        for card in _on_bus(hardware, _INTEL_ON_BUS)
        if _ARC.search(card.name)
    ]
    if not found:
        found = [_of_amdgpu(card) for card in hardware.gpus.amd]
    return sorted(found, key=lambda card: (-card.gib, card.display))


def has_integrated_graphics(hardware: Hardware) -> bool:
    """Whether graphics of Intel's are there that are no card of their own."""
    return any(not _ARC.search(card.name) for card in _on_bus(hardware, _INTEL_ON_BUS))


def short_name(name: str) -> str:
    """``RTX 3090`` of "NVIDIA GeForce RTX 3090" and of "GA102 [GeForce RTX 3090]"; of several names, the chip's."""
    chip, bracket, model = name.partition("[")
    text = chip if not bracket or "/" in model else model.rstrip("] ")
    text = _SERIES.sub("", _MAKERS.sub("", text.strip())).strip()
    return "" if name == UNNAMED else text


def architecture_of(name: str) -> str:
    """The architecture of a card of this name in the PCI database; empty where it does not tell."""
    chip = name.partition("[")[0]
    return next((architecture for pattern, architecture in _ARCHITECTURES if re.match(pattern, chip)), "")


def _of_driver(card: Gpu, hardware: Hardware) -> Card:
    connected = {_address(each.bus_id) for each in hardware.bus.cards if each.displays}
    return Card(
        "nvidia",
        short_name(card.name),
        card.architecture,
        uuid=card.uuid,
        total_mib=card.total_mib,
        display=bool(card.display) or _address(card.bus_id) in connected,
        shares_ram=card.integrated,
        index=card.index,
        watts=card.power_default_w,
    )


def _of_amdgpu(card: Gpu) -> Card:
    return Card(
        "amd",
        short_name(card.name),
        total_mib=card.total_mib,
        display=bool(card.display),
        shares_ram=card.integrated,
    )


def _on_bus(hardware: Hardware, vendor: str) -> Iterator[DisplayCard]:
    return (card for card in hardware.bus.cards if card.vendor == vendor)


def _address(bus_id: str) -> str:
    """A bus address as sysfs has it: nvidia-smi writes four digits more, and capitals."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"
