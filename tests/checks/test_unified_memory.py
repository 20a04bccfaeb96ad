"""Boxes whose GPU has the RAM as its memory, and GPUs whose driver does not tell their memory.

The rows are those that owners report (llama-swap #782, unsloth #10703, turbofit #5; Jetson: vllm-cli #11, llmfit #792;
Strix Halo: nix-amd-ai #42), with other UUIDs.
"""

from __future__ import annotations

from typing import Any

import pytest
from llamarig.checks.base import Finding, Severity
from llamarig.checks.box import Box
from llamarig.facts.capacity import Capacity
from llamarig.facts.gpus import Gpus, GpuState
from llamarig.items.cards_in_use import cards_in_use
from llamarig.lints.lint import Lint
from llamarig.placement.box_capacity import BoxCapacity
from llamarig.placement.devices import parse_device_list, with_set_aside
from llamarig.placement.unified_memory import is_shared
from llamarig.records.plan_file import DeviceMemory, Plan

from tests.checks.example_boxes import BOX_A, LARGE, B, look, machine, rig
from tests.checks.test_checks_of_cards import BOX_D
from tests.lints.lint_examples import GIB, lints, model
from tests.placement.planned_box import BY_PLAN, MODEL, planned

UUID = "GPU-00000000-0000-4000-8000-000000000001"
GB10 = (
    f"0, {UUID}, NVIDIA GB10, [N/A], [N/A], 12.1, 580.142, 0000000F:01:00.0, 1, 5, 1, 1, [N/A], [N/A], [N/A], [N/A], "
    "Enabled, Disabled, P8, 0x0000000000000001, [N/A]"
)
ORIN = f"0, [N/A], Orin (nvgpu), [N/A], [N/A], 8.7, 540.4.0{', [N/A]' * 14}"
MIG = (
    f"0, {UUID}, NVIDIA H100 80GB HBM3, [Insufficient Permissions], [Insufficient Permissions], 9.0, 580.95.05, "
    "00000000:01:00.0, 5, 5, 16, 16, 700.00, 700.00, 200.00, 700.00, Enabled, Disabled, P0, 0x0000000000000000, 0"
)
STRIX = (
    "0000:c3:00.0|AMD Radeon 8060S|{vram}|209715200|16.0 GT/s PCIe|16.0 GT/s PCIe|16.0 GT/s PCIe|16|16|16|0|0|"
    "120000000|120000000"
)
GTT = "|103079215104|3"
# 121,690 MiB of RAM.
SPARK = machine(
    ("MemTotal:       24684084 kB", "MemTotal:       124610560 kB"),
    ("MemAvailable:   22446752 kB", "MemAvailable:   120000512 kB"),
)


def state(*nvidia: str, amd: str = "") -> GpuState:
    return Gpus().process(["== nvidia", *(nvidia or ("none",)), "== amd", amd])


def unified_plan(on_gpu: int, **changes: Any) -> Plan:
    plan = planned(uuid=UUID, **changes)
    device = plan.belongs.devices[0].model_copy(update={"description": "NVIDIA GB10"})
    row = DeviceMemory(name="CUDA0", model_mib=on_gpu, context_mib=0, compute_mib=0)
    belongs = plan.belongs.model_copy(update={"devices": (device,)})
    return plan.model_copy(update={"belongs": belongs, "memory": (row, plan.host)})


def test_a_gb10_is_a_card_with_the_ram_as_its_memory() -> None:
    (card,) = state(GB10).gpus
    assert (card.name, card.uuid, card.integrated, card.total_mib) == ("NVIDIA GB10", UUID, True, 0)
    assert card.architecture == "121a-real"


def test_a_jetson_is_a_card_without_a_uuid_and_a_sentence_says_so() -> None:
    found = state(ORIN)
    (card,) = found.gpus
    assert (card.name, card.uuid, card.bus_id, card.driver) == ("Orin (nvgpu)", "", "", "540.4.0")
    (finding,) = look("gpu.driver", rig(BOX_A, gpus=()), Box(gpus=found))
    assert finding.found == "Tegra's driver tells no UUID of Orin (nvgpu), so no model can name it in gpus"
    assert (finding.severity, finding.fails) == (Severity.NOTE, False)


def test_a_row_without_a_uuid_is_no_card_of_another_kind() -> None:
    assert state(ORIN.replace("Orin (nvgpu)", "NVIDIA GeForce RTX 4090")).gpus == ()


def room(check: str, gpus: GpuState, plan: Plan) -> list[Finding]:
    return look(check, BY_PLAN, Box(gpus=gpus, machine=SPARK, plans={MODEL: plan}))


def test_memory_that_is_not_told_is_not_zero() -> None:
    assert room("gpu.room", state(GB10), unified_plan(100000)) == [], "memory.room compares it"
    (finding,) = room("gpu.room", state(MIG), planned(uuid=UUID))
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)
    assert "the driver does not tell the memory of NVIDIA H100 80GB HBM3" in finding.found
    assert look("gpu.memory", B, Box(gpus=state(GB10), machine=SPARK)) == []


@pytest.mark.parametrize(("on_gpu", "fits"), [(90000, True), (117616, False)])
def test_memory_of_the_gpu_counts_as_ram(on_gpu: int, fits: bool) -> None:
    found = room("memory.room", state(GB10), unified_plan(on_gpu))
    assert (found == []) is fits
    if not fits:
        assert f"GPU memory {on_gpu}" in found[0].expected


def test_without_a_plan_all_weights_have_to_fit_into_the_ram() -> None:
    assert look("memory.room", B, Box(gpus=state(GB10), machine=SPARK, locked=(LARGE,))) == []
    (finding,) = look("memory.room", B, Box(gpus=state(GB10), machine=machine(), locked=(LARGE,)))
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize("vram", [536870912, 4294967296])
def test_strix_halo_is_integrated_whatever_is_set_aside(vram: int) -> None:
    (card,) = state(amd=STRIX.format(vram=vram) + GTT).amd
    assert (card.integrated, card.total_mib, card.shared_mib) == (True, vram >> 20, 98304)
    (by_name,) = state(amd=STRIX.format(vram=vram)).amd
    assert by_name.integrated, "a kernel that does not tell the format of its metrics"
    vulkan = rig(BOX_D, gpus=())
    assert cards_in_use(vulkan, state(amd=STRIX.format(vram=vram) + GTT)) == [card], "there is no other GPU"


def test_a_radeon_beside_integrated_graphics_is_the_only_card_in_use() -> None:
    radeon = STRIX.format(vram=21458059264).replace("8060S", "RX 7900 XT").replace("c3:", "03:") + "|33554432000|1"
    found = Gpus().process(["== amd", STRIX.format(vram=536870912) + GTT, radeon])
    assert [card.name for card in cards_in_use(rig(BOX_D, gpus=()), found)] == ["AMD Radeon RX 7900 XT"]


def test_what_the_firmware_set_aside_is_in_the_plan() -> None:
    line = "  Vulkan0: Radeon 8060S Graphics (RADV GFX1151) (100352 MiB, 98000 MiB free)"
    devices = parse_device_list(f"Available devices:\n{line}")
    amd = state(amd=STRIX.format(vram=4294967296) + GTT).amd
    assert [device.set_aside_mib for device in with_set_aside(devices, amd)] == [4096]
    card = parse_device_list(
        line.replace("Radeon 8060S Graphics (RADV GFX1151)", "AMD Radeon RX 7900 XT (RADV NAVI31)")
    )
    assert [device.set_aside_mib for device in with_set_aside(card, amd)] == [0]


def test_the_driver_decides_where_a_name_does_not() -> None:
    """HIP has no name for a new card, nor for the graphics of many processors."""
    unnamed = parse_device_list("Available devices:\n  ROCm0: AMD Radeon Graphics (16304 MiB, 16000 MiB free)")
    card = state(amd=STRIX.format(vram=17095983104).replace("8060S", "Graphics") + "|33554432000|1").amd
    apu = state(amd=STRIX.format(vram=536870912).replace("8060S", "Graphics") + GTT).amd
    assert [is_shared(device) for device in with_set_aside(unnamed, card)] == [False]
    assert [is_shared(device) for device in with_set_aside(unnamed, apu)] == [True]
    assert [is_shared(device) for device in with_set_aside(unnamed, [*card, *apu])] == [True], "by its name"
    nvidia = parse_device_list("  CUDA0: NVIDIA GeForce RTX 4090 (24080 MiB, 23671 MiB free)")
    assert [is_shared(device) for device in with_set_aside(nvidia, apu)] == [False]


def capacity(*lines: str) -> BoxCapacity:
    return Capacity().process(["MemTotal:       124610560 kB", *lines])


def test_the_capacity_of_a_box_with_one_memory() -> None:
    assert capacity("driver", "Model: \t\t NVIDIA GB10", f"GPU UUID: \t {UUID}").shared
    assert capacity("Model: NVIDIA Jetson AGX Orin Developer Kit").shared
    strix = capacity("amd    3 4294967296")
    assert (strix.shared, strix.set_aside) == (True, 4 << 30)
    both = capacity("driver", "Model: \t\t NVIDIA GeForce RTX 4090", "amd    2 536870912")
    assert not both.shared, "a card beside integrated graphics"
    assert not capacity("amd  8589934592", "amd    2 536870912").shared, "an RX 580, which has no metrics, beside one"
    assert not capacity("Model: Raspberry Pi 5").shared
    assert not capacity().shared


def found(box: BoxCapacity, **serve: Any) -> list[Lint]:
    return [lint for lint in lints(model(**serve), box=box) if lint.rule.startswith("memory-")]


def test_a_declared_placement_on_a_gpu_that_shares_the_ram_counts_as_ram() -> None:
    """60 GiB of weights."""
    box = BoxCapacity(ram=64 * GIB, shared=True)
    everything = {"placement": {"kind": "all-on-gpu"}}
    (lint,) = found(box, **everything)
    assert "60.0 GiB of weights in RAM" in lint.consequence
    assert "the GPU's memory is the same RAM, and such a box freezes when it is full" in lint.consequence
    assert found(BoxCapacity(ram=64 * GIB), **everything) == []
    assert found(BoxCapacity(ram=96 * GIB, shared=True), **everything) == []
    assert found(BoxCapacity(ram=32 * GIB, shared=True, set_aside=64 * GIB), **everything) == []
