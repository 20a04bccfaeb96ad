"""Stale plans and measurements, and the description of what changed."""

from __future__ import annotations

from typing import Any

import pytest
from llamarig.declare.placement import Auto, Layers
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.placement.staleness import (
    CurrentInputs,
    is_current,
    plan_changes,
    plan_flags,
    staleness,
)
from llamarig.records.plan_file import (
    MarginGain,
    MeasuredMargin,
    MeasuredPlacement,
    PlanFile,
    PlannedLoading,
)

from tests.placement.example_models import model
from tests.placement.planned_model import RELEASE, SHARDS, UUIDS, plan
from tests.render.golden_units import PINNED


def now(**changes: Any) -> CurrentInputs:
    declared = {
        "shards": SHARDS,
        "release": RELEASE,
        "flags": plan_flags(model(), PINNED),
        "auto": Auto(),
        "uuids": frozenset(UUIDS),
        **changes,
    }
    return CurrentInputs(**declared)


def test_a_plan_is_up_to_date_while_nothing_changes() -> None:
    assert staleness(plan(), now()) == []
    # Margins raised for pinned weights suit the declared ones, and so do the margins of a plan without.
    raised = plan().belongs.model_copy(update={"margins_mib": (512, 512)})
    assert staleness(plan(belongs=raised), now()) == []
    assert staleness(plan(), now(uuids=None)) == []


CHANGED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "other files": ({"shards": ("3" * 64,)}, ("files", "111111111111", "333333333333")),
    "another release": (
        {"release": "f" * 40 + "-12345678"},
        ("llama.cpp", "0c1e57098bba-a6a0c45d", "ffffffffffff-12345678"),
    ),
    "context": ({"flags": plan_flags(model(context=131072), PINNED)}, ("--ctx-size 65536 is now 131072",)),
    "one flag more": ({"flags": plan_flags(model(op_offload=False), PINNED)}, ("--no-op-offload is new",)),
    "one flag less": ({"flags": plan_flags(model(), PINNED)[2:]}, ("--ctx-size 65536 is no longer declared",)),
    "another margin": ({"auto": Auto(margin_mib=1024)}, ("384/384 MiB", "1024/1024 MiB")),
    "margins for three": ({"auto": Auto(per_gpu=(1, 2, 3))}, ("3 margins", "2 GPUs")),
    "another card": ({"uuids": frozenset(UUIDS[:1])}, ("RTX 5070 Ti", UUIDS[1])),
    "simulated": (
        {"simulated": (SimulatedGpu(name="RTX 5090", total_mib=32607, free_mib=32000),)},
        ("RTX 4090 (23671 of 24564 MiB free)", "RTX 5090 (32000 of 32607 MiB free)"),
    ),
}


@pytest.mark.parametrize(("changes", "words"), CHANGED.values(), ids=CHANGED.keys())
def test_each_change_is_described(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    (line,) = staleness(plan(), now(**changes))
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    "serve",
    [
        {"port": 9000},
        {"sampling": {"temperature": 0.3}},
        {"cache_ram_mib": 64},
        {"alias": "other"},
        {"metrics": True},
        {"api_key_file": "/k", "host": "10.0.0.1"},
    ],
)
def test_settings_that_decide_no_memory_make_no_plan_stale(serve: dict[str, Any]) -> None:
    assert plan_flags(model(**serve), PINNED) == plan_flags(model(), PINNED)


def test_another_give_up_makes_a_plan_stale() -> None:
    other = model(placement={"kind": "auto", "give_up": ["context"]})
    assert staleness(plan(), now(flags=plan_flags(other, PINNED))) == ["flags: give_up=context is new"]


@pytest.mark.parametrize(
    ("recorded", "declared", "words"),
    [
        ({"load_mode": "auto"}, {"load_mode": "mlock"}, "load_mode auto is now mlock"),
        ({"load_mode": "auto"}, {"load_mode": "auto"}, ""),
        ({}, {"load_mode": "mlock", "offload_min_batch": "1024"}, ""),
        (
            {"offload_min_batch": ""},
            {"offload_min_batch": "1024"},
            "GGML_OP_OFFLOAD_MIN_BATCH: planned with not declared, now 1024",
        ),
        ({"offload_min_batch": "1024"}, {"offload_min_batch": "1024"}, ""),
    ],
)
def test_a_plan_belongs_to_its_load_mode_and_its_offload_threshold(
    recorded: dict[str, Any], declared: dict[str, Any], words: str
) -> None:
    """Plans of older versions record neither, and stay valid: what they are served with has not changed."""
    belongs = plan().belongs.model_copy(update=recorded)
    assert staleness(plan(belongs=belongs), now(**declared)) == ([words] if words else [])


def test_a_plan_with_a_measured_margin_is_compared_by_the_default_one() -> None:
    found = MeasuredMargin(
        cards=UUIDS,
        release=RELEASE,
        flags=(),
        load_mode="none",
        beyond_mib=(300, 250),
        left_mib=(90, 80),
        prompt_tokens=9000,
        date="2026-11-28T12:00:00Z",
    )
    belongs = plan().belongs.model_copy(update={"margins_mib": (428, 378)})
    gain = MarginGain(measured=found, instead_mib=(512, 512), whole_instead=20)
    assert staleness(plan(belongs=belongs, margin=gain), now()) == []
    (line,) = staleness(plan(belongs=belongs, margin=gain), now(auto=Auto(margin_mib=1024)))
    assert "planned with 512/512 MiB, declared 1024/1024 MiB" in line


def test_another_load_mode_of_a_new_plan_is_listed() -> None:
    before, after = (plan(loading=PlannedLoading(mode=mode)) for mode in ("auto", "none"))
    assert plan_changes(before, after) == ["load_mode auto becomes none"]
    assert plan_changes(plan(), after) == []


def test_a_plan_round_trips_through_the_plan_file() -> None:
    file = PlanFile(boxes={"box": {"m": plan()}})
    assert PlanFile.model_validate_json(file.model_dump_json(exclude_defaults=True)) == file


def test_changes_by_a_new_plan_are_listed() -> None:
    after = plan(placement=Layers(gpu=(14, 6), split=(20, 29)), context=32768)
    assert plan_changes(plan(), after) == [
        "whole layers 15 + 6 become 14 + 6, split 21,28 becomes 20,29",
        "context 65536 becomes 32768",
    ]
    assert plan_changes(plan(), plan()) == []


def test_free_memory_is_listed_only_if_it_changed_a_decision() -> None:
    belongs = plan().belongs
    less = belongs.devices[0].model_copy(update={"free_mib": 23000})
    belongs = belongs.model_copy(update={"devices": (less, belongs.devices[1])})
    assert plan_changes(plan(), plan(belongs=belongs)) == []
    assert plan_changes(plan(), plan(belongs=belongs, context=32768)) == [
        "context 65536 becomes 32768",
        "CUDA0 has 23000 MiB free, before 23671",
    ]


def measured(**changes: Any) -> MeasuredPlacement:
    declared = {
        "shards": SHARDS,
        "release": RELEASE,
        "flags": plan_flags(model(), PINNED),
        "devices": plan().belongs.devices,
        "left_mib": (900, 700),
        **changes,
    }
    return MeasuredPlacement(**declared)


def test_a_measurement_is_up_to_date_while_nothing_changes() -> None:
    assert is_current(measured(), now(auto=None))
    failed = measured(devices=(), left_mib=(), failed="it ended with status 1")
    assert is_current(failed, now(auto=None)), "what cannot be measured is not tried at every run"


@pytest.mark.parametrize(
    "changes",
    [
        {"shards": ("3" * 64,)},
        {"release": "f" * 40 + "-12345678"},
        {"flags": plan_flags(model(context=131072), PINNED)},
        {"uuids": frozenset(UUIDS[:1])},
        {"simulated": (SimulatedGpu(name="RTX 5090", total_mib=32607, free_mib=32000),)},
    ],
)
def test_a_measurement_is_stale_once_one_of_its_inputs_changes(changes: dict[str, Any]) -> None:
    assert not is_current(measured(), now(auto=None, **changes))
