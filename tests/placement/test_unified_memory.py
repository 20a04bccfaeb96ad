"""GPUs that share the box's RAM: recognised by name, planned with one budget for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from llamarig.placement.fallbacks import NothingFitsError
from llamarig.placement.ram_budget import ram_budget, ram_shortages
from llamarig.placement.unified_memory import memory_in_ram, shares_ram, system_reserve_mib
from llamarig.records.plan_file import DeviceMemory, PlannedDevice

from tests.placement.example_models import model
from tests.placement.test_planner import FakeFitParams, planned, request


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GB10",
        "Orin (nvgpu)",
        "NVIDIA Thor",
        "AMD Radeon 8060S",
        "Radeon 8060S Graphics (RADV GFX1151)",
        "AMD Radeon 890M (RADV STRIX1)",
        "AMD Radeon Graphics (RADV RENOIR)",
        "AMD Radeon(TM) Graphics",
        "AMD Radeon Vega 8 Graphics (RADV RAVEN)",
        "Intel(R) UHD Graphics 770 (ADL-S GT1)",
        "Intel(R) Iris(R) Xe Graphics",
        "Intel(R) Arc(TM) 140T GPU (32GB)",
        "AMD Radeon RX Vega 11 Graphics (RADV RAVEN)",
        "AMD Radeon R7 Graphics",
        "AMD Custom GPU 0405 (RADV VANGOGH)",
        "AMD BC-250 (RADV GFX1013)",
        "AMD Instinct MI300A",
        "AMD Radeon Graphics (RADV GFX1150)",
        "Intel(R) Arc(tm) Graphics (MTL)",
        "Intel(R) Arc(tm) B390 Graphics (PTL)",
        "Intel(R) Graphics (LNL)",
        "Intel(R) Graphics (RPL-P)",
        "Intel(R) Graphics (ADL GT2)",
    ],
)
def test_names_of_gpus_that_share_the_ram(name: str) -> None:
    assert shares_ram(name)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "AMD Radeon RX 7900 XT (RADV NAVI31)",
        "AMD Radeon RX 5700 XT",
        "AMD Radeon AI PRO R9700 (RADV GFX1201)",
        "AMD Instinct MI210",
        "AMD Radeon VII",
        "Intel(R) Arc(TM) A770 Graphics (DG2)",
        "Intel(R) Arc(TM) B580 Graphics",
        # A new card whose product Mesa and libdrm do not know yet, as the next two (llama.cpp on an RX 9070 XT).
        "AMD Radeon Graphics (RADV GFX1201)",
        "AMD Radeon Graphics (RADV NAVI33)",
        "Intel(R) Graphics (BMG G21)",
        "AMD Radeon RX Vega (RADV VEGA10)",
        "AMD Radeon RX Vega M GL Graphics (RADV VEGAM)",
        "Intel(R) Arc(tm) Pro B60 Graphics (BMG G21)",
        "Intel(R) Iris(R) Xe MAX Graphics (DG1)",
        "Intel(R) Data Center GPU Flex 170 (ATS-M)",
        "NVIDIA GH200 480GB",
    ],
)
def test_names_of_cards(name: str) -> None:
    assert not shares_ram(name)


GB10 = PlannedDevice(name="CUDA0", description="NVIDIA GB10", total_mib=124546, free_mib=118000)
HOST = DeviceMemory(name="Host", model_mib=3000, context_mib=0, compute_mib=1000)


def test_the_memory_of_both_is_one_budget() -> None:
    """What was found to fit a DGX Spark twice: 117616 MiB of GPU memory and 13256 of RAM, of 117188 available."""
    assert memory_in_ram((GB10,), (117616,)) == 117616
    budget = ram_budget(model().serve, HOST, 0, 117188)
    refusals, _ = ram_shortages(model().serve, budget)
    assert refusals == [], "each for itself fits"
    (refusal,), notes = ram_shortages(model().serve, budget, 117616)
    assert notes == []
    assert refusal.startswith("the GPU's memory is the RAM of the box: the model needs ")
    assert "and 117188 MiB are available" in refusal


def test_what_the_firmware_set_aside_is_not_ram() -> None:
    strix = GB10.model_copy(update={"description": "Radeon 8060S Graphics (RADV GFX1151)", "set_aside_mib": 4096})
    assert memory_in_ram((strix,), (60000,)) == 60000 - 4096
    assert memory_in_ram((strix,), (3000,)) == 0
    card = GB10.model_copy(update={"description": "NVIDIA GeForce RTX 4090"})
    assert memory_in_ram((card,), (20000,)) == 0


def test_the_reserve_grows_with_the_ram() -> None:
    assert system_reserve_mib(121690, 2048) == 7605
    assert system_reserve_mib(16384, 2048) == 4096


class OneDevice(FakeFitParams):
    """The same memory model, where llama.cpp's own fit answers for one device."""

    def __call__(self, arguments: Sequence[str]) -> str:
        return super().__call__(arguments).replace("-ts 20,29", "-ts 49")


@pytest.mark.parametrize(("ram", "fits"), [(118000, True), (81000, True), (60000, False)])
def test_a_plan_for_a_box_with_one_memory(ram: int, fits: bool) -> None:
    """The model takes 61 GiB. Its layers in RAM take the same memory, so they do not make it fit."""
    of = request()
    inputs = of.inputs.model_copy(
        update={"devices": (GB10.model_copy(update={"free_mib": ram}),), "margins_mib": (384,)}
    )
    of = replace(of, inputs=inputs, ram_available_mib=ram, box_ram_mib=121690)
    if not fits:
        with pytest.raises(NothingFitsError, match="the GPU's memory is the RAM of the box"):
            planned(of, OneDevice())
        return
    plan = planned(of, OneDevice())
    assert plan.ram.reserve_mib == 7605
    assert plan.gpus[0].total_mib + plan.ram.total_mib <= ram
    assert "the GPU's memory is the RAM of the box" in plan.notes[0]


def test_margins_come_off_what_the_ram_leaves() -> None:
    """The driver may count swap or a limit of its own as free; RAM that is not known limits nothing."""
    of = request()
    inputs = of.inputs.model_copy(update={"devices": (GB10,), "margins_mib": (384,)})
    of = replace(of, inputs=inputs, box_ram_mib=121690)
    assert replace(of, ram_available_mib=100000).budgets((384,)) == (100000 - 7605 - 8192 - 384,)
    assert replace(of, ram_available_mib=0).budgets((384,)) == (118000 - 384,)
    assert replace(of, ram_available_mib=100000, simulated=True).budgets((384,)) == (118000 - 384,)
