"""The devices a plan is for, as llama.cpp lists them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.planning.gpus import Gpu
from tasks.spec.plan_file import PlannedDevice
from tasks.spec.simulated_gpu import SimulatedGpu

_LISTED = re.compile(
    r"^\s*(?P<name>[A-Za-z]+\d+): (?P<description>.*) \((?P<total>\d{1,9}) MiB, (?P<free>\d{1,9}) MiB free\)\s*$"
)


@dataclass(frozen=True)
class Device:
    """``name`` as placement flags say it (CUDA0), memory in MiB, ``uuid`` empty where it is not known."""

    name: str
    description: str
    total_mib: int
    free_mib: int
    uuid: str = ""


def listed(output: str) -> list[Device]:
    """The GPUs that ``llama-fit-params --list-devices`` prints, in llama.cpp's order."""
    found = (_LISTED.match(line) for line in output.splitlines())
    return [Device(each["name"], each["description"], int(each["total"]), int(each["free"])) for each in found if each]


def simulation_environment(gpus: tuple[SimulatedGpu, ...], library: str) -> dict[str, str]:
    """What makes llama.cpp see these GPUs in place of the box's own.

    :param library: path on the box of the compiled tasks/files/simulated_gpu.cpp
    """
    return {
        # Whatever real cards a CUDA release would find have the same names.
        "CUDA_VISIBLE_DEVICES": "",
        "GGML_BACKEND_PATH": library,
        "LLAMARIG_SIMULATED_GPUS": ",".join(f"{gpu.name}:{gpu.total_mib}:{gpu.free_mib}" for gpu in gpus),
    }


def simulated_devices(gpus: tuple[SimulatedGpu, ...]) -> list[Device]:
    """The same GPUs as devices."""
    return [Device(f"CUDA{index}", gpu.name, gpu.total_mib, gpu.free_mib) for index, gpu in enumerate(gpus)]


def with_uuids(
    devices: Sequence[Device], gpus: Sequence[Gpu], declared: Sequence[str], held_mib: Mapping[str, int]
) -> list[Device]:
    """The devices with their UUIDs where those can be told, and with the memory our own servers hold given back.

    :param declared: UUIDs the model is served on, in device order; without them cards are told apart by name, and
        alike ones by their order
    :param held_mib: UUID -> what our servers hold there now
    """
    left = [gpu for gpu in gpus if gpu.uuid in declared] if declared else list(gpus)
    left.sort(key=lambda gpu: declared.index(gpu.uuid) if declared else gpu.index)
    found = []
    for device in devices:
        mine = next((gpu for gpu in left if gpu.name and gpu.name in device.description), None)
        if mine is None:
            found.append(device)
            continue
        left.remove(mine)
        free = min(device.total_mib, device.free_mib + held_mib.get(mine.uuid, 0))
        found.append(replace(device, uuid=mine.uuid, free_mib=free))
    return found


def cards_of(planned: Sequence[PlannedDevice], gpus: Sequence[Gpu], declared: Sequence[str]) -> list[Gpu | None]:
    """The card that each planned device is, None where it is not there or cannot be told.

    :param declared: UUIDs the model is served on, in device order; for a plan that knows no UUIDs
    """
    uuids = [device.uuid for device in planned]
    if not any(uuids):
        devices = [Device(each.name, each.description, each.total_mib, each.free_mib) for each in planned]
        uuids = [device.uuid for device in with_uuids(devices, gpus, declared, {})]
    by_uuid = {gpu.uuid: gpu for gpu in gpus if gpu.uuid}
    return [by_uuid.get(uuid) for uuid in uuids]
