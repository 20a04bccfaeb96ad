"""Which cards of a box are in use: those that the backends of its models can run on, and those that are declared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from llamarig.declare.host_policy import GpuCard
from llamarig.declare.model import Model
from llamarig.declare.placement import CpuOnly
from llamarig.declare.rig import Rig
from llamarig.facts.gpus import Gpu, GpuState

Vendor = Literal["nvidia", "amd", "other"]

AMD_ON_BUS, NVIDIA_ON_BUS = "0x1002", "0x10de"
"""PCI vendor ids, as sysfs prints them."""

# Integrated graphics reserve 512 MiB of the RAM, or somewhat more if the BIOS is set so.
_SMALL_MIB = 4000
_AMD = re.compile(r"\b(amd|radeon|rx|instinct|mi\d+x?|navi|vega|firepro|gfx\d+)\b", re.IGNORECASE)
_OTHER = re.compile(r"\b(intel|arc|moore|adreno)\b", re.IGNORECASE)
# Words of a card's name that do not identify it.
_FILLERS = {"amd", "ati", "radeon", "rx", "graphics"}


def backends_in_use(rig: Rig) -> frozenset[str]:
    """The backends (cuda, hip, vulkan) of the models that are not placed on the CPU alone."""
    used = {rig.build_of(model).backend for model in rig.models if not isinstance(model.serve.placement, CpuOnly)}
    return frozenset(used - {"cpu"})


def vendor_of(declared: GpuCard) -> Vendor:
    """The vendor of a declared card, from its name; NVIDIA if the name tells none, or if it has a UUID."""
    if declared.uuid is None and _AMD.search(declared.name):
        return "amd"
    return "other" if declared.uuid is None and _OTHER.search(declared.name) else "nvidia"


def declared_cards(rig: Rig, vendor: Vendor) -> list[GpuCard]:
    """The declared cards of one vendor, in their order."""
    return [card for card in rig.host.gpus if vendor_of(card) == vendor]


def large(cards: Sequence[Gpu]) -> list[Gpu]:
    """The cards without integrated graphics. A card whose size is unknown (0 MiB) is kept."""
    return [card for card in cards if not card.integrated and not 0 < card.total_mib < _SMALL_MIB]


def cards_in_use(rig: Rig, state: GpuState) -> list[Gpu]:
    """The cards that models may run on or that are declared; NVIDIA's first."""
    backends, cards = backends_in_use(rig), list[Gpu]()
    if backends & {"cuda", "vulkan"} or declared_cards(rig, "nvidia"):
        cards += state.gpus
    wanted = declared_cards(rig, "amd")
    if backends & {"hip", "vulkan"} or wanted:
        # As llama.cpp does: integrated graphics are used where there is no other GPU.
        alone = not cards and len(state.amd) >= state.on_bus.count(AMD_ON_BUS)
        kept = large(state.amd) or (list(state.amd) if alone else [])
        cards += [card for card in state.amd if card in kept or any(is_amd_card(want, card) for want in wanted)]
    return cards


def of_cuda(rig: Rig, state: GpuState) -> GpuState:
    """The state with only the NVIDIA cards that models of CUDA builds use: all of them, or those named by UUID.

    Builds need no code for an old card that only drives a display. Where no model is declared yet, no card is in use
    that a build has declared no code for.
    """
    if not rig.models:
        declared_for = [build.architectures for build in rig.builds if build.backend == "cuda"]
        used = [card for card in state.gpus if any(not each or card.architecture in each for each in declared_for)]
        return replace(state, gpus=tuple(used))
    declared = [model.serve.gpus for model in _on_cuda(rig) if not isinstance(model.serve.placement, CpuOnly)]
    if not declared or not all(declared):
        return state
    named = {uuid for uuids in declared for uuid in uuids}
    return replace(state, gpus=tuple(card for card in state.gpus if card.uuid in named))


def bus_order_matters(rig: Rig) -> bool:
    """Whether a model or a power limit selects its card by the order on the PCI bus, not by UUID or order of speed."""
    models = _on_cuda(rig)
    by_bus = any(
        not model.serve.gpus and model.serve.environment.get("CUDA_DEVICE_ORDER") != "FASTEST_FIRST" for model in models
    )
    return by_bus or any(card.power_limit_w for card in rig.host.gpus) or not models


def _on_cuda(rig: Rig) -> list[Model]:
    return [model for model in rig.models if rig.build_of(model).backend == "cuda"]


def is_amd_card(declared: GpuCard, found: Gpu) -> bool:
    """Whether an AMD card may be the declared one. Compares whole words: RX 7900 XT is not RX 7900 XTX.

    pci.ids has one name for all cards of a chip: Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M].
    """
    chip, _, models = found.name.partition("[")
    wanted = _words(declared.name)
    return any(wanted <= _words(name) for name in (chip, *models.rstrip("]").split("/")))


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower())) - _FILLERS
