"""A plan's GPU memory and RAM against what a box has now, to the MiB."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tasks.planning.checks.base import Finding, Severity
from tasks.planning.checks.box import Box, Strays
from tasks.planning.checks.registry import findings, selected
from tasks.spec.placement import Layers
from tasks.spec.plan_file import Proposal
from tasks.spec.simulated_gpu import SimulatedGpu
from tests.planning.planned_box import BY_PLAN, H200_UUID, MODEL, planned
from tests.planning.test_checks import LARGE, R, gpus, look, machine, served


def room(free: int, **values: Any) -> list[Finding]:
    """What the plan of a model finds on the H200 with so many MiB free."""
    plan = values.pop("plan", planned())
    card = gpus(("143771, 143156", f"143771, {free}"))
    return look("gpu.room", BY_PLAN, Box(gpus=card, plans={MODEL: plan}, **values))


def test_room_by_a_plan_is_its_own_budget_and_says_so() -> None:
    """The lower bound of the same model would be silent: all of its weights could be on the card."""
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
    assert "at the least, reckoned without a plan" in bound.expected


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
def test_a_lost_margin_is_a_warning_and_a_model_that_would_not_start_an_error(
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


def test_what_our_own_servers_hold_is_room_for_a_plan() -> None:
    assert room(40000, vram_held_mib={H200_UUID: 100000}, strays=served()) == []
    (finding,) = room(30000, vram_held_mib={H200_UUID: 60000}, strays=served())
    assert finding.severity is Severity.ERROR
    assert "30000 of 143771" in finding.found
    assert "60000 more are held by our own servers" in finding.found


def test_a_driver_that_does_not_tell_what_our_servers_hold_is_not_guessed_at() -> None:
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


def test_a_planned_card_that_is_not_there_is_told_by_the_cards_alone() -> None:
    assert room(90000, plan=planned(uuid=H200_UUID.replace("abb3f99e", "1bb3f99e"))) == []


def test_a_step_down_has_no_prediction_to_be_held_against() -> None:
    step = Proposal(placement=Layers(gpu=(39,), split=(49,)), reason="CUDA0 lacks 300 MiB")
    (finding,) = room(90000, plan=planned(proposals=(step,)))
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)
    box = Box(gpus=gpus(("143771, 143156", "143771, 90000")), plans={MODEL: planned(proposals=(step,))})
    (of_no_plan,) = look("gpu.memory", BY_PLAN, box)
    assert of_no_plan.severity is Severity.WARNING


def test_a_plan_for_cards_that_are_not_here_says_nothing_of_those_that_are() -> None:
    elsewhere = SimulatedGpu(name="NVIDIA H200", total_mib=143771, free_mib=142600)
    of = BY_PLAN.model_copy(update={"simulated_gpus": (elsewhere,)})
    low = gpus(("143771, 143156", "143771, 90000"))
    assert look("gpu.room", of, Box(gpus=low, plans={MODEL: planned(uuid="")})) == []


def test_memory_taken_from_a_planned_card_is_one_finding() -> None:
    """And none where the plan has its room all the same."""
    low = gpus(("143771, 143156", "143771, 90000"))
    assert [item.check for item in findings(selected(("gpu.memory", "gpu.room")), BY_PLAN, Box(gpus=low))] == [
        "gpu.memory"
    ]
    plans = {MODEL: planned()}
    found = findings(selected(("gpu.memory", "gpu.room")), BY_PLAN, Box(gpus=low, plans=plans))
    assert [item.check for item in found] == ["gpu.room"]


def test_a_plan_file_that_cannot_be_read_is_told_by_the_check_it_was_given_to() -> None:
    box = Box(machine=machine(), unread={"gpu.room": "plans.json is no plan file"})
    (finding,) = findings(selected(("gpu.room", "memory.room")), BY_PLAN, box)
    assert (finding.check, finding.severity, finding.fails) == ("gpu.room", Severity.UNKNOWN, True)
    assert "plans.json is no plan file" in finding.found
