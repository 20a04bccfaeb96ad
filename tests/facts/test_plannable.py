"""What a plan starts from: the GPUs a release lists, and the memory our own servers hold.

No GPU is here: lines of nvidia-smi are in its documented CSV format, the others as the programs print them.
"""

from __future__ import annotations

from tasks.facts.plannable import Held, HeldByOurs, PlannableDevices
from tasks.planning.gpus import Gpu
from tasks.planning.plans.device import Device, with_uuids

UUIDS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
SAID = """\
MemAvailable:   10240000 kB
pid 812
RssAnon:           20480 kB
RssShmem:           1024 kB
812, GPU-11111111-2222-3333-4444-555555555555, 22000
812, GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee, 11000
4711, GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee, 3000
"""
LISTED = """\
Available devices:
  CUDA0: NVIDIA GeForce RTX 4090 (24564 MiB, 1671 MiB free)
  CUDA1: NVIDIA GeForce RTX 5070 Ti (16303 MiB, 1761 MiB free)
"""


def gpu(index: int, uuid: str, name: str) -> Gpu:
    return Gpu(index, uuid, name, 0, 0, "8.9", "580.95.05", f"0000:0{index}:00.0")


CARDS = [gpu(0, UUIDS[1], "NVIDIA GeForce RTX 5070 Ti"), gpu(1, UUIDS[0], "NVIDIA GeForce RTX 4090")]


def test_memory_of_our_own_servers_counts_as_available() -> None:
    held = HeldByOurs().process(SAID.splitlines())
    assert held.available_mib == 10000 + 20 + 1
    assert held.vram_mib == {UUIDS[0]: 22000, UUIDS[1]: 11000}


def test_a_locked_mapping_is_given_back_and_another_one_is_available_already() -> None:
    """By the numbers of the machine with an H100 (data/answers/RamHeld.vm_h100.txt): 3 GiB of a file locked."""
    said = (
        "MemAvailable: 1048576 kB\npid 414\nVmLck:\t{} kB\nRssAnon:\t 8336 kB\nRssFile:\t 3153324 kB\nRssShmem:\t 0 kB"
    )
    assert HeldByOurs().process(said.format(3145728).splitlines()).available_mib == 1024 + 8 + 3072
    assert HeldByOurs().process(said.format(0).splitlines()).available_mib == 1024 + 8


def test_a_box_that_tells_nothing_is_not_guessed_at() -> None:
    assert HeldByOurs().process([]) == Held()
    assert HeldByOurs().process(["MemAvailable: many", "pid x", "[N/A], GPU-1, 3"]) == Held()


def test_devices_are_those_the_release_lists() -> None:
    devices = PlannableDevices().process(LISTED.splitlines())
    assert devices == [
        Device("CUDA0", "NVIDIA GeForce RTX 4090", 24564, 1671),
        Device("CUDA1", "NVIDIA GeForce RTX 5070 Ti", 16303, 1761),
    ]
    assert PlannableDevices().process(["Available devices:", "  (none)"]) == []


def test_each_device_gets_its_card_and_what_our_servers_hold_there() -> None:
    """nvidia-smi counts by bus, llama.cpp may count by speed."""
    devices = PlannableDevices().process(LISTED.splitlines())
    found = with_uuids(devices, CARDS, (), {UUIDS[0]: 22000, UUIDS[1]: 11000})
    assert [(device.uuid, device.free_mib) for device in found] == [(UUIDS[0], 23671), (UUIDS[1], 12761)]
    assert with_uuids(devices, [], (), {}) == devices


def test_two_cards_of_a_kind_are_told_apart_by_what_is_declared() -> None:
    twins = [Device("CUDA0", "NVIDIA GeForce RTX 4090", 9, 1), Device("CUDA1", "NVIDIA GeForce RTX 4090", 9, 2)]
    cards = [gpu(0, UUIDS[0], "NVIDIA GeForce RTX 4090"), gpu(1, UUIDS[1], "NVIDIA GeForce RTX 4090")]
    assert [device.uuid for device in with_uuids(twins, cards, (UUIDS[1], UUIDS[0]), {})] == [UUIDS[1], UUIDS[0]]
    assert [device.uuid for device in with_uuids(twins, cards, (), {})] == list(UUIDS)
