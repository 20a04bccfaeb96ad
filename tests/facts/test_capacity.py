"""Capacity of a box: RAM, CPUs, GPUs and kernel."""

from __future__ import annotations

import platform
import subprocess

from llamarig.facts.capacity import Capacity
from llamarig.placement.box_capacity import BoxCapacity

MEMORY = "MemTotal:       65742180 kB"
UUIDS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
# Format of /proc/driver/nvidia/gpus/*/information.
GPU = ["Model: \t\t NVIDIA GeForce RTX 4090", "IRQ:   \t\t 148", "GPU UUID: \t {uuid}", "Video BIOS: \t 95.02.3c.00.8d"]


def gpu(uuid: str) -> list[str]:
    return [line.format(uuid=uuid) for line in GPU]


def test_output_is_parsed() -> None:
    output = [MEMORY, "kernel 6.12.57-1-cachyos", "cpus 0-15", "driver", *gpu(UUIDS[0]), *gpu(UUIDS[1])]
    expected = BoxCapacity(65742180 * 1024, frozenset(range(16)), frozenset(UUIDS), kernel="6.12.57-1-cachyos")
    assert Capacity().process(output) == expected


def test_the_command_works_on_this_machine() -> None:
    """By the fact's own command."""
    output = subprocess.run(["sh", "-c", Capacity().command()], capture_output=True, text=True, check=True).stdout
    box = Capacity().process(output.splitlines())
    assert box.kernel == platform.release()
    assert box.ram > 0


def test_capacity_without_a_driver() -> None:
    assert Capacity().process([MEMORY, "cpus 0,2"]) == BoxCapacity(65742180 * 1024, frozenset({0, 2}), None)


def test_gpus_are_unknown_while_the_driver_has_no_uuids() -> None:
    output = [MEMORY, "cpus 0", "driver", *gpu("GPU-????????-????-????-????-????????????")]
    assert Capacity().process(output).gpus is None


def test_capacity_without_output() -> None:
    assert Capacity().process([]) == BoxCapacity()
