"""GPUs that a release lists, and memory that model servers hold.

Lines of nvidia-smi are written by its documented CSV format, the others are as the programs print them.
"""

from __future__ import annotations

from llamarig.facts.gpus import Gpu
from llamarig.facts.plannable_devices import HeldByServers, HeldMemory, PlannableDevices
from llamarig.placement.devices import device, with_uuids

UUIDS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
ONE, TWO = "llamarig-one.service", "llamarig-two.service"
OUTPUT = """\
MemAvailable:   10240000 kB
MainPID=812
Id=llamarig-one.service

Id=llamarig-two.service
MainPID=813

MainPID=0
Id=llamarig-three.service

pid 812
RssAnon:           20480 kB
RssShmem:           1024 kB
pid 813
RssAnon:           51200 kB
813, GPU-11111111-2222-3333-4444-555555555555, 1000
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


def test_memory_of_model_servers_counts_as_available() -> None:
    held = HeldByServers().process(OUTPUT.splitlines())
    assert held.available_mib() == 10000 + 20 + 1 + 50
    assert held.freed_vram_mib() == {UUIDS[0]: 23000, UUIDS[1]: 11000}


def test_memory_of_a_server_that_stays_is_not_available() -> None:
    held = HeldByServers().process(OUTPUT.splitlines())
    assert held.available_mib({TWO}) == 10000 + 20 + 1
    assert held.freed_vram_mib({TWO}) == {UUIDS[0]: 22000, UUIDS[1]: 11000}
    assert held.available_mib({ONE, TWO}) == 10000
    assert held.freed_vram_mib({ONE, TWO}) == {}


def test_only_a_locked_mapping_is_added() -> None:
    """Numbers of the machine with an H100 (data/answers/RamHeld.vm_h100.txt): 3 GiB of a file are locked."""
    output = (
        "MemAvailable: 1048576 kB\nMainPID=414\nId=llamarig-one.service\n\n"
        "pid 414\nVmLck:\t{} kB\nRssAnon:\t 8336 kB\nRssFile:\t 3153324 kB\nRssShmem:\t 0 kB"
    )
    assert HeldByServers().process(output.format(3145728).splitlines()).available_mib() == 1024 + 8 + 3072
    assert HeldByServers().process(output.format(0).splitlines()).available_mib() == 1024 + 8


def test_unknown_memory_is_zero() -> None:
    assert HeldByServers().process([]) == HeldMemory()
    assert HeldByServers().process(["MemAvailable: many", "pid x", "[N/A], GPU-1, 3"]) == HeldMemory()


def test_devices_of_a_release() -> None:
    devices = PlannableDevices().process(LISTED.splitlines())
    assert devices == [
        device("CUDA0", "NVIDIA GeForce RTX 4090", 24564, 1671),
        device("CUDA1", "NVIDIA GeForce RTX 5070 Ti", 16303, 1761),
    ]
    assert PlannableDevices().process(["Available devices:", "  (none)"]) == []


def test_each_device_gets_its_uuid_and_the_memory_of_model_servers() -> None:
    """nvidia-smi orders by PCI bus, llama.cpp may order by speed."""
    devices = PlannableDevices().process(LISTED.splitlines())
    found = with_uuids(devices, CARDS, (), {UUIDS[0]: 22000, UUIDS[1]: 11000})
    assert [(device.uuid, device.free_mib) for device in found] == [(UUIDS[0], 23671), (UUIDS[1], 12761)]
    assert with_uuids(devices, [], (), {}) == devices


def test_two_equal_gpus_are_matched_by_the_declared_uuids() -> None:
    twins = [device("CUDA0", "NVIDIA GeForce RTX 4090", 9, 1), device("CUDA1", "NVIDIA GeForce RTX 4090", 9, 2)]
    cards = [gpu(0, UUIDS[0], "NVIDIA GeForce RTX 4090"), gpu(1, UUIDS[1], "NVIDIA GeForce RTX 4090")]
    assert [device.uuid for device in with_uuids(twins, cards, (UUIDS[1], UUIDS[0]), {})] == [UUIDS[1], UUIDS[0]]
    assert [device.uuid for device in with_uuids(twins, cards, (), {})] == list(UUIDS)
