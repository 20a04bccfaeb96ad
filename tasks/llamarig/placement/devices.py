"""The devices a plan is for, as llama.cpp lists them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.placement.unified_memory import is_shared, shares_ram
from llamarig.records.plan_file import PlannedDevice

_DEVICE_LINE = re.compile(
    r"^\s*(?P<name>[A-Za-z]+\d+): (?P<description>.*) \((?P<total>\d{1,9}) MiB, (?P<free>\d{1,9}) MiB free\)\s*$"
)


_UNNAMED = re.compile(r"(?:AMD )?Radeon(?:\(TM\))? Graphics")
"""What HIP calls a card that it has no name for, and the graphics of many processors."""


def parse_device_list(output: str) -> list[PlannedDevice]:
    """Parse the output of ``llama-fit-params --list-devices``; GPUs in llama.cpp's order.

    A line of it: ``CUDA0: NVIDIA GeForce RTX 4090 (24080 MiB, 23671 MiB free)``.
    """
    rows = (_DEVICE_LINE.match(line) for line in output.splitlines())
    return [device(row["name"], row["description"], int(row["total"]), int(row["free"])) for row in rows if row]


def device(name: str, description: str, total_mib: int, free_mib: int) -> PlannedDevice:
    """A device without a UUID."""
    return PlannedDevice(name=name, description=description, total_mib=total_mib, free_mib=free_mib)


def simulation_environment(gpus: tuple[SimulatedGpu, ...], library: str) -> dict[str, str]:
    """Environment in which llama.cpp sees these GPUs in place of the box's own.

    :param library: path on the box of the compiled remote/build/simulated_gpu.cpp
    """
    return {
        # Hides real cards: a CUDA release would give them the same names.
        "CUDA_VISIBLE_DEVICES": "",
        "GGML_BACKEND_PATH": library,
        "LLAMARIG_SIMULATED_GPUS": ",".join(f"{gpu.name}:{gpu.total_mib}:{gpu.free_mib}" for gpu in gpus),
    }


def simulated_devices(gpus: tuple[SimulatedGpu, ...]) -> list[PlannedDevice]:
    """The simulated GPUs as devices."""
    return [device(f"CUDA{index}", gpu.name, gpu.total_mib, gpu.free_mib) for index, gpu in enumerate(gpus)]


class _IntegratedGpu(Protocol):
    """A GPU of AMD (facts/gpus.py): whether it shares the RAM, and the memory that the firmware set aside for it."""

    @property
    def integrated(self) -> bool: ...

    @property
    def total_mib(self) -> int: ...


def with_set_aside(devices: Sequence[PlannedDevice], amd: Sequence[_IntegratedGpu]) -> list[PlannedDevice]:
    """The devices, one of AMD's integrated GPUs with the memory that is set aside for it beside MemTotal.

    Of an unnamed one, it is what all of AMD's GPUs of the box are.
    """
    set_aside = sum(gpu.total_mib for gpu in amd if gpu.integrated)
    kinds = {gpu.integrated for gpu in amd}
    found = []
    for listed in devices:
        if len(kinds) == 1 and not listed.uuid and _UNNAMED.fullmatch(listed.description):
            shared = kinds == {True}
            # Recorded only where the description does not show it.
            recorded = None if shared == shares_ram(listed.description) else shared
            listed = listed.model_copy(update={"shared": recorded})
        if set_aside and not listed.uuid and is_shared(listed):
            listed = listed.model_copy(update={"set_aside_mib": min(set_aside, listed.total_mib)})
        found.append(listed)
    return found


class _Card(Protocol):
    """A card as its driver reports it (facts/gpus.py): its position, its UUID (empty if unknown), its product name, its
    free memory."""

    @property
    def index(self) -> int: ...

    @property
    def uuid(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def free_mib(self) -> int: ...


C = TypeVar("C", bound=_Card)


def with_uuids(
    devices: Sequence[PlannedDevice], gpus: Sequence[_Card], declared: Sequence[str], held_mib: Mapping[str, int]
) -> list[PlannedDevice]:
    """The devices with their UUIDs, where they can be matched to cards, and with memory held by our own servers counted
    as free.

    :param declared: UUIDs the model is served on, in device order; if empty, cards are matched by name, and equal ones
        by order
    :param held_mib: MiB held by our servers now, by UUID
    """
    unmatched = [gpu for gpu in gpus if gpu.uuid in declared] if declared else list(gpus)
    unmatched.sort(key=lambda gpu: declared.index(gpu.uuid) if declared else gpu.index)
    matched = []
    for listed in devices:
        card = next((gpu for gpu in unmatched if gpu.name and gpu.name in listed.description), None)
        if card is None:
            matched.append(listed)
            continue
        unmatched.remove(card)
        held = held_mib.get(card.uuid, 0)
        update = {"uuid": card.uuid, "free_mib": min(listed.total_mib, listed.free_mib + held)}
        matched.append(listed.model_copy(update={**update, "driver_free_mib": card.free_mib + held}))
    return matched


def cards_of(planned: Sequence[PlannedDevice], gpus: Sequence[C], declared: Sequence[str]) -> list[C | None]:
    """The card of each planned device, None if it is missing or cannot be identified.

    :param declared: UUIDs the model is served on, in device order; used for a plan without UUIDs
    """
    uuids = [device.uuid for device in planned]
    if not any(uuids):
        uuids = [device.uuid for device in with_uuids(planned, gpus, declared, {})]
    by_uuid = {gpu.uuid: gpu for gpu in gpus if gpu.uuid}
    return [by_uuid.get(uuid) for uuid in uuids]
