"""When a plan no longer holds, and in which words that is said."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.planning.plans.ram import memory_limit_mib, ram_budget, ram_findings
from tasks.planning.plans.report import bar, report
from tasks.planning.plans.staleness import Present, flags_of, measured_changes, plan_changes, staleness
from tasks.spec.placement import Auto, Layers
from tasks.spec.plan_file import Belongs, DeviceMemory, MeasuredPlacement, Plan, PlanFile, PlannedDevice
from tasks.spec.serve import Serve
from tasks.spec.simulated_gpu import SimulatedGpu
from tests.planning.golden_units import PINNED
from tests.planning.plans.test_dry_run import model, said

UUIDS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
SHARDS = ("1" * 64, "2" * 64)
RELEASE = "0c1e57098bba43ac29e6e3b677cdceebdd22334f-a6a0c45d"


def memory(name: str, *mib: int, state: int = 0) -> DeviceMemory:
    return DeviceMemory(name=name, model_mib=mib[0], context_mib=mib[1], compute_mib=mib[2], state_mib=state)


def plan(**changes: Any) -> Plan:
    """Box A's, with the numbers of data/qwen3-coder-next-q6.txt."""
    host = memory("Host", 34263, 0, 1056)
    devices = (
        PlannedDevice(name="CUDA0", description="RTX 4090", total_mib=24564, free_mib=23671, uuid=UUIDS[0]),
        PlannedDevice(name="CUDA1", description="RTX 5070 Ti", total_mib=16303, free_mib=12761, uuid=UUIDS[1]),
    )
    belongs = Belongs(
        header="a" * 64,
        shards=SHARDS,
        devices=devices,
        margins_mib=(384, 384),
        flags=flags_of(model(), PINNED),
        release=RELEASE,
    )
    return Plan(
        belongs=belongs,
        placement=Layers(gpu=(15, 6), split=(21, 28)),
        context=65536,
        ubatch=512,
        cache_type_k="f16",
        cache_type_v="f16",
        memory=(memory("CUDA0", 19566, 1393, 1824, state=33), memory("CUDA1", 8657, 1945, 1728, state=42), host),
        ram=ram_budget(model().serve, host, 75.38, 60000),
        splits=(104, 57),
    ).model_copy(update=changes)


def now(**changes: Any) -> Present:
    declared = {
        "shards": SHARDS,
        "release": RELEASE,
        "flags": flags_of(model(), PINNED),
        "auto": Auto(),
        "uuids": frozenset(UUIDS),
        **changes,
    }
    return Present(**declared)


def test_a_plan_holds_while_nothing_changes() -> None:
    assert staleness(plan(), now()) == []
    # Margins raised for pinned weights belong to the declared ones, and so do those of a plan without.
    raised = plan().belongs.model_copy(update={"margins_mib": (512, 512)})
    assert staleness(plan(belongs=raised), now()) == []
    assert staleness(plan(), now(uuids=None)) == []


CHANGED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "other files": ({"shards": ("3" * 64,)}, ("files", "111111111111", "333333333333")),
    "another release": (
        {"release": "f" * 40 + "-12345678"},
        ("llama.cpp", "0c1e57098bba-a6a0c45d", "ffffffffffff-12345678"),
    ),
    "context": ({"flags": flags_of(model(context=131072), PINNED)}, ("--ctx-size 65536 is now 131072",)),
    "one flag more": ({"flags": flags_of(model(op_offload=False), PINNED)}, ("--no-op-offload is new",)),
    "one flag less": ({"flags": flags_of(model(), PINNED)[2:]}, ("--ctx-size 65536 is no longer declared",)),
    "another margin": ({"auto": Auto(margin_mib=1024)}, ("384/384 MiB", "1024/1024 MiB")),
    "margins for three": ({"auto": Auto(per_gpu=(1, 2, 3))}, ("3 margins", "2 GPUs")),
    "another card": ({"uuids": frozenset(UUIDS[:1])}, ("RTX 5070 Ti", UUIDS[1])),
    "simulated": (
        {"simulated": (SimulatedGpu(name="RTX 5090", total_mib=32607, free_mib=32000),)},
        ("RTX 4090 (23671 of 24564 MiB free)", "RTX 5090 (32000 of 32607 MiB free)"),
    ),
}


@pytest.mark.parametrize(("changes", "words"), CHANGED.values(), ids=CHANGED.keys())
def test_what_changed_is_said_in_words(changes: dict[str, Any], words: tuple[str, ...]) -> None:
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
def test_what_decides_no_memory_makes_no_plan_stale(serve: dict[str, Any]) -> None:
    assert flags_of(model(**serve), PINNED) == flags_of(model(), PINNED)


def test_giving_up_something_else_makes_a_plan_stale() -> None:
    other = model(placement={"kind": "auto", "give_up": ["context"]})
    assert staleness(plan(), now(flags=flags_of(other, PINNED))) == ["flags: give_up=context is new"]


def test_a_plan_survives_the_plan_file() -> None:
    file = PlanFile(boxes={"box": {"m": plan()}})
    assert PlanFile.model_validate_json(file.model_dump_json(exclude_defaults=True)) == file


def test_what_a_new_plan_changes() -> None:
    after = plan(placement=Layers(gpu=(14, 6), split=(20, 29)), context=32768)
    assert plan_changes(plan(), after) == [
        "whole layers 15 + 6 become 14 + 6, split 21,28 becomes 20,29",
        "context 65536 becomes 32768",
    ]
    assert plan_changes(plan(), plan()) == []


def test_free_memory_is_named_where_it_changed_something() -> None:
    belongs = plan().belongs
    less = belongs.devices[0].model_copy(update={"free_mib": 23000})
    belongs = belongs.model_copy(update={"devices": (less, belongs.devices[1])})
    assert plan_changes(plan(), plan(belongs=belongs)) == []
    assert plan_changes(plan(), plan(belongs=belongs, context=32768)) == [
        "context 65536 becomes 32768",
        "CUDA0 has 23000 MiB free, before 23671",
    ]


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_says_which_layers_are_where() -> None:
    text = "\n".join(report(plan(), "m", ["1.2 ms a token, calibrated on 3 runs"]))
    for words in (
        "m: 21 of 48 layers whole on the GPUs",
        "CUDA0 RTX 4090: layers 0-14 whole; of layers 15-20 only attention, KV cache and state",
        "CUDA1 RTX 5070 Ti: layers 21-26 whole; of layers 27-47 only attention, KV cache and state; the output",
        "RAM: experts of layers 15-20, 27-47; the token embedding",
        "22783 of 24564 MiB: weights 19566, KV cache 1360, state 33, compute 1824, margin 384, others 893, free 504",
        "--tensor-split 21,28",
        "57 a token",
        "calibrated on 3 runs",
        "release 0c1e57098bba-a6a0c45d",
    ):
        assert words in text, text


def test_partial_layers_and_layers_in_ram_are_named() -> None:
    placement = Layers(gpu=(2,), split=(6,), partial=(("down",),), in_ram=3)
    text = "\n".join(report(plan(placement=placement), "m")[:5]) if False else _places(placement)
    assert "layers 3-4 whole; of layer 5 the experts' down; of layers 6-7 only" in text
    assert "RAM: layers 0-2 wholly; experts of layers 6-7; the other experts of layer 5" in text


def _places(placement: Layers) -> str:
    one = plan()
    belongs = one.belongs.model_copy(update={"devices": one.belongs.devices[:1], "margins_mib": (384,)})
    return "\n".join(
        report(one.model_copy(update={"placement": placement, "belongs": belongs, "memory": one.memory[1:]}), "m")
    )


def test_a_bar_is_as_long_as_it_should_be() -> None:
    assert bar([("#", 1), ("K", 1), ("C", 1)], 4, 8) == "##KKCC.."
    assert len(bar([("#", 1), ("K", 1), ("C", 1)], 3, 10)) == 10
    assert bar([("#", 9)], 3, 6) == "######"
    assert bar([("#", 9)], 0) == ""


# --- RAM -------------------------------------------------------------------------------------------------------------


def serve(**changes: Any) -> Serve:
    return model(**changes).serve


def test_the_ram_of_box_a() -> None:
    """Weights and buffers as the dry run said them; the prompt cache and 32 checkpoints unasked."""
    budget = ram_budget(serve(), memory("Host", 34263, 0, 1056), 75.38, 60000)
    assert (budget.cache_mib, budget.checkpoints_mib, budget.total_mib) == (
        8192,
        2412,
        34263 + 1056 + 8192 + 2412 + 2048,
    )
    assert ram_findings(serve(), budget) == ([], [])


def test_too_little_ram_is_refused_or_said() -> None:
    budget = ram_budget(serve(), memory("Host", 34263, 0, 1056), 75.38, 36000)
    refused, _ = ram_findings(serve(load_mode="mlock"), budget)
    assert "needs 37367 MiB of RAM at once" in refused[0]
    refused, known = ram_findings(serve(), budget)
    assert refused == []
    assert "read from the disk again" in known[0]


def test_ram_that_is_not_known_is_said() -> None:
    _, known = ram_findings(serve(), ram_budget(serve(), memory("Host", 1, 0, 0), 0, 0))
    assert "not known" in known[0]


@pytest.mark.parametrize("name", ["qwen3-coder-next-q6", "gpt-oss-120b"])
def test_the_data_are_words_of_the_real_program(name: str) -> None:
    assert "sched_reserve: graph" in said(name)


def test_a_planned_models_unit_has_a_limit_that_every_step_down_fits_into() -> None:
    limit = memory_limit_mib(serve(), plan())
    assert limit is not None
    freed = sum(gpu.model_mib for gpu in plan().gpus)
    assert plan().ram.total_mib < limit < plan().ram.total_mib + freed
    assert memory_limit_mib(serve(memory_max_mib=4096), plan()) == 4096
    assert memory_limit_mib(serve(load_mode="mmap+mlock"), plan()) is None


def measured(**changes: Any) -> MeasuredPlacement:
    declared = {
        "shards": SHARDS,
        "release": RELEASE,
        "flags": flags_of(model(), PINNED),
        "devices": plan().belongs.devices,
        "left_mib": (900, 700),
        **changes,
    }
    return MeasuredPlacement(**declared)


def test_a_measured_placement_holds_while_nothing_changes() -> None:
    assert measured_changes(measured(), now(auto=None)) == []
    failed = measured(devices=(), left_mib=(), failed="it ended with status 1")
    assert measured_changes(failed, now(auto=None)) == [], "what cannot be measured is not tried at every run"


@pytest.mark.parametrize(
    "changes",
    [
        {"shards": ("3" * 64,)},
        {"release": "f" * 40 + "-12345678"},
        {"flags": flags_of(model(context=131072), PINNED)},
        {"uuids": frozenset(UUIDS[:1])},
        {"simulated": (SimulatedGpu(name="RTX 5090", total_mib=32607, free_mib=32000),)},
    ],
)
def test_a_measured_placement_is_stale_when_something_it_depends_on_changes(changes: dict[str, Any]) -> None:
    assert measured_changes(measured(), now(auto=None, **changes))
