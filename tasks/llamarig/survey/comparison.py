"""What of a box's hardware differs from the rig that it declares."""

from __future__ import annotations

from collections.abc import Iterator

from llamarig.checks.base import Check
from llamarig.checks.box import Box
from llamarig.checks.gpu import CardsPresent
from llamarig.checks.memory import MemorySpeed
from llamarig.checks.registry import findings
from llamarig.declare.rig import Rig
from llamarig.items.cards_in_use import of_cuda
from llamarig.items.cuda_support import cuda_builds, driver_difference, gpu_differences
from llamarig.placement.box_capacity import parse_cpu_list
from llamarig.survey.cards import Card, nvidia_cards, other_cards
from llamarig.survey.hardware import Hardware
from llamarig.survey.machine import cpu_list

_CARDS: tuple[Check, ...] = (CardsPresent(),)
_MEMORY: tuple[Check, ...] = (MemorySpeed(),)


def differences(rig: Rig, hardware: Hardware) -> list[str]:
    """One sentence for each; empty where the box is as its rig says."""
    return list(dict.fromkeys(_differences(rig, hardware)))


def _differences(rig: Rig, hardware: Hardware) -> Iterator[str]:
    state, answers = hardware.gpus, True
    if builds := cuda_builds(rig):
        yield from map(str, gpu_differences(builds, of_cuda(rig, state), hardware.toolkits))
        if (difference := driver_difference(state)) is not None:
            # Which cards are there shows only with a driver.
            yield str(difference)
            answers = False
    for finding in findings((*_CARDS, *_MEMORY) if answers else _MEMORY, rig, Box(ram=hardware.ram, gpus=state)):
        if finding.fails:
            about = f"{finding.about}: " if finding.about else ""
            yield f"{about}{finding.found}, expected {finding.expected}; {finding.remedy}"
    cards = [*nvidia_cards(hardware), *(card for card in other_cards(hardware) if not card.shares_ram)]
    if answers:
        yield from _undeclared(rig, cards)
    if cards and all(build.backend == "cpu" for build in rig.builds):
        yield f"{' + '.join(map(str, cards))} is there, and every build is for the processor alone"
    yield from _slow_cpus(rig, hardware)


def _undeclared(rig: Rig, cards: list[Card]) -> Iterator[str]:
    """Cards that host.gpus does not name, where it names any."""
    if not rig.host.gpus:
        return
    left = [card.name.lower() for card in rig.host.gpus]
    for card in cards:
        name = next((name for name in left if name in card.name.lower() or card.name.lower() in name), None)
        if name is None:
            uuid = f' uuid="{card.uuid}"' if card.uuid else ""
            yield f"{card}{uuid} is there, and host.gpus does not name it"
        else:
            left.remove(name)


def _slow_cpus(rig: Rig, hardware: Hardware) -> Iterator[str]:
    """Models that may compute on the slow cores of a hybrid processor."""
    processor = hardware.processor
    if not processor.fast_cpus:
        return
    for model in rig.models:
        affinity = model.serve.cpu_affinity
        slow = parse_cpu_list(affinity or "") - processor.fast_cpus
        if slow:
            yield (
                f"model {model.name!r}: cpu_affinity {affinity!r} has the slow CPUs {cpu_list(slow)}; the fast ones "
                f"are {cpu_list(processor.fast_cpus)}"
            )
