"""A box's hardware in a few words, and the name of a group for it."""

from __future__ import annotations

import re
from collections import Counter

from llamarig.survey.cards import Card
from llamarig.survey.hardware import Hardware
from llamarig.survey.machine import ram_words
from llamarig.survey.proposal import Proposal

_MAKERS = {"geforce", "nvidia", "amd", "radeon", "tesla", "quadro", "intel", "graphics", "nvgpu"}
_CLUTTER = re.compile(r"\((?:R|TM)\)|\bCPU\b|\bProcessor\b|\d+-Core|\bw/.*|@.*|\b\d+th Gen\b", re.IGNORECASE)


def cards_words(cards: tuple[Card, ...]) -> str:
    """``2 x RTX 3090 (24 GB) + RTX 4090 (24 GB)``; empty without a card."""
    found = Counter(map(str, cards))
    return " + ".join(f"{count} x {name}" if count > 1 else name for name, count in found.items())


def processor_words(hardware: Hardware) -> str:
    """``Intel Core i5-12600K, 10 cores``."""
    processor = hardware.processor
    name = " ".join(_CLUTTER.sub(" ", processor.name).split()) or hardware.platform.machine or "processor unknown"
    return f"{name}, {processor.cores} {'core' if processor.cores == 1 else 'cores'}" if processor.cores else name


def engine_words(hardware: Hardware, proposal: Proposal) -> str:
    """What computes: ``CUDA 13.5``, ``CUDA 12.4 of /usr``, ``Vulkan``, ``the processor alone``."""
    build = proposal.builds[0]
    if build.backend != "cuda":
        return "Vulkan" if build.backend == "vulkan" else "the processor alone"
    version = hardware.toolkits.get(build.cuda_toolkit or "")
    return f"CUDA {version[0]}.{version[1]} of {build.cuda_toolkit}" if version else f"CUDA {build.cuda_toolkit}"


def title(hardware: Hardware, proposal: Proposal) -> str:
    """Cards, processor, RAM and system, for the first line of a file."""
    cards = cards_words((*proposal.cards, *proposal.unused)) or ("WSL2" if hardware.gpus.wsl else "no graphics card")
    parts = (cards, processor_words(hardware), ram_words(hardware), hardware.platform.system)
    text = ", ".join(part for part in parts if part)
    return f"{text[0].upper()}{text[1:]}"


def group_name(hardware: Hardware, proposal: Proposal, *, with_memory: bool = False) -> str:
    """A name for a group of such boxes, as Python and pyinfra take it: ``rtx4090_rtx5070ti``, ``rtx3090_x2``, ``cpu``.

    :param with_memory: with the size of its cards' memory, where other boxes would have the same name
    """
    cards = proposal.cards or proposal.unused
    if hardware.gpus.wsl or not cards:
        return "wsl2" if hardware.gpus.wsl else "cpu_only"
    counted = Counter(_slug(card, with_memory=with_memory) for card in cards)
    return "_".join(f"{slug}_x{count}" if count > 1 else slug for slug, count in counted.items())


def _slug(card: Card, *, with_memory: bool) -> str:
    words = [word for word in re.findall(r"[a-z0-9]+", card.name.lower()) if word not in _MAKERS]
    maker = {"nvidia": "nvidia", "amd": "radeon"}.get(card.vendor, "gpu")
    name = "".join(words) or maker
    name = name if name[0].isalpha() else f"{maker}_{name}"
    return f"{name}_{card.gib}gb" if with_memory and card.total_mib else name
