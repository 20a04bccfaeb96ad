"""GPU memory and RAM of a plan compared with the box, to the MiB."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from llamarig.checks.base import Finding, Severity
from llamarig.checks.box import Box
from llamarig.checks.registry import findings, selected
from llamarig.declare.placement import Layers
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.facts.stray_settings import Strays
from llamarig.records.plan_file import Proposal

from tests.checks.example_boxes import LARGE, R, gpus, look, machine, served
from tests.placement.planned_box import BY_PLAN, H200_UUID, MODEL, planned


def room(free: int, **values: Any) -> list[Finding]:
    """Findings about the plan of a model on an H200 with so many MiB free."""
    plan = values.pop("plan", planned())
    card = gpus(("143771, 143156", f"143771, {free}"))
    return look("gpu.room", BY_PLAN, Box(gpus=card, plans={MODEL: plan}, **values))


def test_the_required_memory_of_a_planned_model_is_that_of_its_plan() -> None:
    """The lower bound of the same model finds nothing: all its weights could be on the card."""
    box = Box(machine=machine(), locked=(LARGE,), gpus=gpus())
    assert look("memory.room", BY_PLAN, box) == []
    of_plan = planned()
    assert look("memory.room", BY_PLAN, replace(box, plans={MODEL: of_plan})) == []
    more = of_plan.ram.model_copy(update={"checkpoints_mib": 30000})
    (finding,) = look("memory.room", BY_PLAN, replace(box, plans={MODEL: planned(ram=more)}))
    assert "by its plan (MiB: weights 4000, buffers 500, prompt cache" in finding.expected
    assert "checkpoints 30000" in finding.expected
    assert f"--data update={MODEL}" in finding.remedy
    (bound,) = look("memory.room", R, Box(machine=machine(), locked=(LARGE,)))
    assert "at least, estimated without a plan" in bound.expected


@pytest.mark.parametrize(
    ("free", "others", "severity"),
    [
        (100384, (), None),
        (100383, (), Severity.WARNING),
        (100000, (), Severity.WARNING),
        (99999, (), Severity.ERROR),
        (101284, (900,), None),
        (101283, (900,), Severity.WARNING),
        (100899, (900,), Severity.ERROR),
    ],
)
def test_a_missing_margin_is_a_warning_and_missing_memory_an_error(
    free: int, others: tuple[int, ...], severity: Severity | None
) -> None:
    found = room(free, plan=planned(others_mib=others))
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
    for finding in found:
        assert finding.about == f"{MODEL} CUDA0"
        assert f"{free} of 143771 MiB of NVIDIA H200 (00000000:00:06.0)" in finding.found
        assert f"{100384 + sum(others)} MiB: 100000 predicted" in finding.expected
        assert "nvidia-smi" in finding.remedy
        assert "margin_mib" in finding.remedy
        assert f"tasks/plan.py --data update={MODEL}" in finding.remedy


def test_memory_held_by_our_own_servers_counts_as_free() -> None:
    assert room(40000, vram_held_mib={H200_UUID: 100000}, strays=served()) == []
    (finding,) = room(30000, vram_held_mib={H200_UUID: 60000}, strays=served())
    assert finding.severity is Severity.ERROR
    assert "30000 of 143771" in finding.found
    assert "60000 more are held by our own servers" in finding.found


def test_unreported_memory_of_our_servers_is_unknown() -> None:
    (finding,) = room(40000, strays=served())
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)
    assert room(110000, strays=served()) == []
    (finding,) = room(40000, strays=Strays(unseen="only root sees the processes of other users"))
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)


def test_a_plan_without_uuids_finds_its_card_by_name() -> None:
    (finding,) = room(90000, plan=planned(uuid=""))
    assert finding.severity is Severity.ERROR
    belongs = planned(uuid="").belongs
    other = belongs.devices[0].model_copy(update={"description": "AMD Radeon RX 7900 XTX"})
    (unknown,) = room(90000, plan=planned(belongs=belongs.model_copy(update={"devices": (other,)})))
    assert unknown.severity is Severity.UNKNOWN
    assert "AMD Radeon RX 7900 XTX" in unknown.found


def test_a_missing_planned_card_is_left_to_gpu_cards() -> None:
    assert room(90000, plan=planned(uuid=H200_UUID.replace("abb3f99e", "1bb3f99e"))) == []


def test_a_step_down_has_no_prediction_to_compare_with() -> None:
    step = Proposal(placement=Layers(gpu=(39,), split=(49,)), reason="CUDA0 lacks 300 MiB")
    (finding,) = room(90000, plan=planned(proposals=(step,)))
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)
    box = Box(gpus=gpus(("143771, 143156", "143771, 90000")), plans={MODEL: planned(proposals=(step,))})
    (of_no_plan,) = look("gpu.memory", BY_PLAN, box)
    assert of_no_plan.severity is Severity.WARNING


def test_a_plan_for_simulated_cards_is_not_compared_with_real_ones() -> None:
    elsewhere = SimulatedGpu(name="NVIDIA H200", total_mib=143771, free_mib=142600)
    of = BY_PLAN.model_copy(update={"simulated_gpus": (elsewhere,)})
    low = gpus(("143771, 143156", "143771, 90000"))
    assert look("gpu.room", of, Box(gpus=low, plans={MODEL: planned(uuid="")})) == []


def test_memory_missing_on_a_planned_card_is_one_finding() -> None:
    """There is none if the plan's memory is free all the same."""
    low = gpus(("143771, 143156", "143771, 90000"))
    assert [item.check for item in findings(selected(("gpu.memory", "gpu.room")), BY_PLAN, Box(gpus=low))] == [
        "gpu.memory"
    ]
    plans = {MODEL: planned()}
    found = findings(selected(("gpu.memory", "gpu.room")), BY_PLAN, Box(gpus=low, plans=plans))
    assert [item.check for item in found] == ["gpu.room"]


def test_an_unreadable_plan_file_is_reported_by_llama_plans_if_that_check_is_made() -> None:
    box = Box(machine=machine(), plan_problem="plans.json is not a plan file")
    checks = selected(("gpu.room", "memory.room"))
    found = findings(checks, BY_PLAN, box)
    assert [(finding.check, finding.severity, finding.fails) for finding in found] == [
        ("gpu.room", Severity.UNKNOWN, True),
        ("memory.room", Severity.UNKNOWN, True),
    ]
    assert all("plans.json is not a plan file" in finding.found for finding in found)
    assert "plans.json" not in str(findings(checks, BY_PLAN, replace(box, selected=frozenset({"llama.plans"}))))
