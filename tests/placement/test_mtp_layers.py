"""Multi-token prediction layers have positions in every split, and weigh nothing unless draft-mtp loads them.

Models, and llama.cpp's own rule: tests/placement/mtp_models.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamarig.declare.placement import Auto, CpuMoe, Layers, Override
from llamarig.placement.box_capacity import BoxCapacity
from llamarig.placement.devices import device
from llamarig.placement.llama_cpp_fit import fit_layers
from llamarig.placement.model_layers import layer_of, layer_weights
from llamarig.placement.plan_report import plan_report
from llamarig.placement.plan_request import PlanRequest
from llamarig.placement.plan_runs import performed
from llamarig.placement.planner import make_plan
from llamarig.placement.speed_prediction import ram_bytes_per_token
from llamarig.placement.staleness import plan_flags
from llamarig.placement.steps_down import fits_model, steps_down
from llamarig.placement.tensor_overrides import host_bytes
from llamarig.records.plan_file import Plan, PlanInputs
from llamarig.remote.shared.gguf_header import Header, Value
from llamarig.render.placement_arguments import layers_with_experts_on_cpu

from tests.lints.lint_examples import found, lints, model
from tests.placement.mtp_models import MIB, NAMES, POSITIONS, flags, header, layers_by_plan, loaded, trunk_only
from tests.render.golden_units import PINNED

# --- lints -----------------------------------------------------------------------------------------------------------


REFUSED = [("layers-of-another-model", "refusal")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tensors", [header, trunk_only], ids=["whole", "trunk only"])
def test_a_split_of_the_wrong_sum_is_refused(name: str, tensors: Any) -> None:
    of, positions = tensors(name), POSITIONS[name]
    for more, expected in ((-1, REFUSED), (0, []), (1, REFUSED)):
        split = (25, positions - 25 + more)
        assert found(Layers(gpu=(3, 4), split=split), of) == expected
        assert found(Layers(gpu=(3, 4), split=split, nextn=1), of) == expected
        less = (25, positions - 25 + more - 3)
        assert found(Layers(gpu=(3, 4), split=less, in_ram=3), of) == expected


def test_the_refusal_names_the_right_sum() -> None:
    declared = model(placement=Layers(gpu=(3, 4), split=(24, 17)).model_dump())
    (lint,) = lints(declared, header=header("qwen36_mtp"), box=BoxCapacity())
    assert "41 layers, 1 of them for multi-token prediction, and the output, 42 in all" in lint.consequence
    assert lint.remedy == "make split add up to 42"


def test_nextn_keeps_layers_of_draft_mtp_out_of_every_rule() -> None:
    of, speculation = header("qwen36_mtp"), {"types": ["draft-mtp"]}
    # All loaded layers are whole on their GPUs, but a rule would name layer 40 and end pipeline parallelism.
    needless = Layers(gpu=(25, 15), split=(25, 17))
    assert found(needless, of) == [("layers-of-another-model", "warning")]
    assert found(needless.model_copy(update={"nextn": 1}), of) == []
    assert "--override-tensor" not in flags(needless.model_copy(update={"nextn": 1}))
    assert found(Layers(gpu=(25, 16), split=(25, 17)), of) == []
    # With draft-mtp the experts of the layer are read for every draft, from RAM unless they are on a GPU.
    assert found(Layers(gpu=(3, 4), split=(25, 17)), of, speculation=speculation) == [
        ("layers-of-another-model", "warning")
    ]
    assert found(Layers(gpu=(3, 4), split=(25, 17), nextn=1), of, speculation=speculation) == []
    assert found(Layers(gpu=(3, 4), split=(25, 17), nextn=2), of) == REFUSED


def test_a_rule_is_compared_with_where_llama_cpp_puts_the_layer() -> None:
    """With 24,17 of 42 positions layer 24 is on the first GPU, and its KV cache with it."""
    rule = r"blk\.(2[4-9]|3[0-9])\.=CUDA1"
    declared = model(placement=Override(rules=(rule,), split=(24, 17)).model_dump())
    (lint,) = lints(declared, header=header("qwen36_mtp"), box=BoxCapacity())
    assert lint.rule == "override-weights-away-from-kv"
    assert "layers 24 go to CUDA1" in lint.consequence
    assert found(Override(rules=(rule,), split=(24, 18)), header("qwen36_mtp")) == []
    # Of 33 positions the first 9 layers are in RAM: layer 24 is the 16th on a GPU.
    assert found(Override(rules=(rule,), split=(15, 18), gpu_layers=33), header("qwen36_mtp")) == []


@pytest.mark.parametrize("mtp", [False, True])
def test_only_loaded_weights_count_as_in_ram(mtp: bool) -> None:
    for name in NAMES:
        of = header(name)
        for placement in (
            Layers(gpu=(3, 4), split=(25, POSITIONS[name] - 25)),
            Layers(gpu=(3, 4), split=(25, POSITIONS[name] - 28), in_ram=3, nextn=1),
            Override(rules=("exps=CPU",), gpu_layers=20),
        ):
            expected = loaded(flags(placement), of, 2, mtp=mtp).ram
            assert host_bytes(placement, of, mtp=mtp) == expected * MIB
    assert found(CpuMoe(layers=41), header("qwen36_mtp")) == [("layers-of-another-model", "warning")]
    assert found(CpuMoe(layers=41), header("qwen36_mtp"), speculation={"types": ["draft-mtp"]}) == []


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "positions"),
    [
        ({}, 42),
        ({"qwen35moe.nextn_predict_layers": 2}, 42),
        # Metadata that llama.cpp would refuse is ignored: the tensors are of 41 layers.
        ({"qwen35moe.block_count": 0}, 42),
        ({"qwen35moe.block_count": 1 << 31}, 42),
        ({"qwen35moe.block_count": -1}, 42),
        ({"qwen35moe.block_count": "41"}, 42),
        ({"qwen35moe.nextn_predict_layers": 42}, 42),
        ({"qwen35moe.nextn_predict_layers": -1}, 42),
        ({"general.architecture": "other"}, 42),
        ({"qwen35moe.block_count": 512}, 513),
    ],
)
def test_positions_come_from_the_metadata(changed: dict[str, Value], positions: int) -> None:
    of = header("qwen36_mtp")
    weights = layer_weights(replace(of, metadata={**of.metadata, **changed}))
    assert weights.positions == positions
    assert len(weights.dense) == len(weights.experts) == weights.layers


# --- plans -----------------------------------------------------------------------------------------------------------


class DryRuns:
    """The output of llama-fit-params: weights where the flags put them, 20 MiB of KV cache a layer, 900 of compute
    buffers."""

    def __init__(self, of: Header, gpus: int) -> None:
        self.of, self.gpus = of, gpus

    def __call__(self, arguments: Sequence[str]) -> str:
        if "--fit-print" not in arguments:
            return "error: it gave up\nexit=1"
        words = [
            word
            for flag, value in zip(arguments, [*arguments[1:], ""], strict=True)
            for word in (flag, value)
            if flag in ("--n-gpu-layers", "--tensor-split", "--override-tensor")
        ]
        found = loaded(words, self.of, self.gpus)
        trunk = layer_weights(self.of).layers
        context = [20 * sum(found.homes[layer] == gpu for layer in range(trunk)) for gpu in range(self.gpus)]
        rows = [f"CUDA{gpu} {int(found.gpus[gpu])} {context[gpu]} 900 " for gpu in range(self.gpus)]
        return "\n".join([*rows, f"Host {int(found.ram)} 0 500 ", "exit=0"])


def planned(of: Header, free: tuple[int, ...], *, speculation: Any = None, **auto: Any) -> Plan:
    """The plan for cards with so many MiB free, without a margin."""
    speculated = {"speculation": speculation} if speculation else {}
    declared = model(placement=Auto(margin_mib=0, **auto).model_dump(), **speculated)
    belongs = PlanInputs(
        header="a" * 64,
        devices=tuple(device(f"CUDA{index}", "a card", mib, mib) for index, mib in enumerate(free)),
        margins_mib=(0,) * len(free),
        flags=plan_flags(declared, PINNED),
        release="r",
    )
    asking = make_plan(PlanRequest(declared, PINNED, of, "/m.gguf", None, False, belongs, 0))
    runs = DryRuns(of, len(free))
    return performed(asking, lambda requests: [runs(each) for each in requests])


PLANS = [
    *(("qwen36_mtp", free) for free in [(9000, 7000), (14000, 14000), (7000,), (40000, 16000), (3000, 3000, 9000)]),
    *(("glm45_air", free) for free in [(30000, 90000), (24000, 40000), (60000,), (140000, 16000)]),
]


@pytest.mark.parametrize(("name", "free"), PLANS)
@pytest.mark.parametrize("tensors", [header, trunk_only], ids=["whole", "trunk only"])
def test_a_plan_has_the_right_split_and_counts_each_layer_on_its_gpu(
    name: str, free: tuple[int, ...], tensors: Any
) -> None:
    of = tensors(name)
    plan = planned(of, free)
    placement = plan.placement
    assert sum(placement.split) == POSITIONS[name]
    there = loaded(flags(placement), of, len(free))
    mine = layers_by_plan(placement)
    assert mine == {layer: gpu for layer, gpu in there.homes.items() if layer < POSITIONS[name] - 2}
    assert POSITIONS[name] - 2 not in layers_with_experts_on_cpu(placement)
    last = max(gpu for gpu, share in enumerate(placement.split) if share)
    assert there.homes[POSITIONS[name] - 2] == last
    assert [row.model_mib for row in plan.gpus] == [int(mib) for mib in there.gpus]
    assert found(placement, of) == []


def test_a_plan_with_everything_on_gpus_overrides_nothing() -> None:
    plan = planned(header("qwen36_mtp"), (14000, 14000))
    assert sum(plan.placement.gpu) == 40
    assert "--override-tensor" not in flags(plan.placement)


def test_the_report_names_the_layers_as_llama_cpp_places_them() -> None:
    plan = planned(header("qwen36_mtp"), (9000, 7000))
    lines = plan_report(plan, "m")
    first = plan.placement.split[0]
    assert lines[0] == f"m: {sum(plan.placement.gpu)} of 40 layers whole on the GPUs"
    (second,) = (line for line in lines if line.startswith("  CUDA1 a card"))
    assert f"layers {first}-" in second
    assert second.endswith("layer 40 of multi-token prediction, loaded only with draft-mtp and not counted; the output")


@pytest.mark.parametrize(("name", "free"), [("qwen36_mtp", (1850,)), ("glm45_air", (4000, 3000))])
def test_llama_cpp_keeps_the_planned_number_of_layers_in_ram(name: str, free: tuple[int, ...]) -> None:
    plan = planned(header(name), free, give_up=("layers",))
    count = plan.placement.in_ram
    assert 0 < count < layer_weights(header(name)).layers
    homes = loaded(flags(plan.placement), header(name), len(free)).homes
    assert [layer for layer, gpu in homes.items() if gpu is None] == list(range(count))


@pytest.mark.parametrize("in_ram", [0, 3, 40])
def test_in_ram_is_the_number_of_layers_in_ram(in_ram: int) -> None:
    placement = Layers(gpu=(0,), split=(42 - in_ram,), in_ram=in_ram, nextn=1)
    homes = loaded(flags(placement), header("qwen36_mtp"), 1).homes
    assert [layer for layer, gpu in homes.items() if gpu is None] == list(range(in_ram))
    assert found(placement, header("qwen36_mtp")) == []


# Few whole layers on the last card: a step takes its first layer, at the border between the two.
FEW = [("qwen36_mtp", (9000, 3200)), ("qwen36_mtp", (11000, 3000)), ("glm45_air", (24000, 9000))]


@pytest.mark.parametrize(("name", "free"), [*PLANS, *FEW])
def test_a_step_down_frees_memory_on_the_gpu_it_names(name: str, free: tuple[int, ...]) -> None:
    of = header(name)
    placement = planned(of, free).placement
    before = loaded(flags(placement), of, len(free))
    steps = steps_down(placement, layer_weights(of))
    assert steps
    for step in steps:
        after = loaded(flags(step.placement), of, len(free))
        freed = [was - now for was, now in zip(before.gpus, after.gpus, strict=True)]
        assert [int(mib + 1e-6) for mib in freed] == list(step.frees_mib), step


def test_a_dense_model_steps_down_by_its_first_layers() -> None:
    of = header("qwen36_mtp")
    dense = replace(of, tensors=tuple(tensor for tensor in of.tensors if "exps" not in tensor.name))
    placement = Layers(gpu=(25, 15), split=(25, 17), nextn=1)
    before = loaded(flags(placement), dense, 2)
    steps = steps_down(placement, layer_weights(dense))
    assert len(steps) == 9
    for step in steps:
        after = loaded(flags(step.placement), dense, 2)
        assert [layer for layer, gpu in after.homes.items() if gpu is None] == list(range(step.placement.in_ram))
        freed = [was - now for was, now in zip(before.gpus, after.gpus, strict=True)]
        assert sum(freed) > 0
        assert "--override-tensor" not in flags(step.placement)


def test_a_plan_made_before_these_layers_were_counted_has_no_steps_down() -> None:
    """Its layers are on other GPUs than its numbers say, so a step would not free memory where it claims to."""
    old, weights = Layers(gpu=(9, 5), split=(24, 17)), layer_weights(header("qwen36_mtp"))
    assert not fits_model(old, weights)
    assert steps_down(old, weights) == []
    assert steps_down(Layers(gpu=(9, 5), split=(24, 18), nextn=1), weights)


@settings(deadline=None)
@given(
    st.sampled_from(NAMES),
    st.lists(st.integers(0, 30), min_size=1, max_size=4),
    st.integers(0, 5),
    st.integers(0, 1),
    st.data(),
)
def test_every_placement_of_the_right_sum_matches_llama_cpp(
    name: str, shares: list[int], in_ram: int, nextn: int, data: st.DataObject
) -> None:
    missing = POSITIONS[name] - in_ram - sum(shares)
    split = (*shares, max(missing, 1 + nextn))
    in_ram = POSITIONS[name] - sum(split)
    if in_ram < 0:
        return
    room = Layers(gpu=(0,) * len(split), split=split, in_ram=in_ram, nextn=nextn).room
    gpu = tuple(data.draw(st.integers(0, count)) for count in room)
    placement = Layers(gpu=gpu, split=split, in_ram=in_ram, nextn=nextn)
    homes = loaded(flags(placement), header(name), len(split)).homes
    assert layers_by_plan(placement) == {layer: homes[layer] for layer in range(POSITIONS[name] - 1 - nextn)}


# --- beside a plan ---------------------------------------------------------------------------------------------------


def test_the_answer_of_fit_counts_all_positions() -> None:
    """41 of 42 positions on GPUs leave the first layer in RAM, whatever llama.cpp's fit intended."""
    of = header("qwen36_mtp")
    cards = (device("CUDA0", "a", 1, 1), device("CUDA1", "b", 1, 1))
    assert fit_layers(["-ngl", "41", "-ts", "20,21"], layer_weights(of), of.tensors, cards)[0] == (20, 19)
    assert fit_layers(["-ngl", "42", "-ts", "25,17"], layer_weights(of), of.tensors, cards)[0] == (25, 15)


def test_a_token_reads_only_loaded_layers() -> None:
    of = header("qwen36_mtp")
    words = ["--n-gpu-layers", "42", "--fit", "off", "--override-tensor", "exps=CPU"]
    experts = [
        sum(t.size for t in of.tensors if layer_of(t.name) == layer and "exps." in t.name) for layer in range(41)
    ]
    read = ram_bytes_per_token(words, of)
    assert read == pytest.approx(sum(experts[:40]) * 8 / 256)
    read = ram_bytes_per_token([*words, "--spec-type", "draft-mtp"], of)
    assert read == pytest.approx(sum(experts) * 8 / 256)
    # One layer entirely in RAM, by 41 of 42 positions.
    none = ["--n-gpu-layers", "41", "--fit", "off"]
    first = [tensor for tensor in of.tensors if layer_of(tensor.name) == 0]
    dense = sum(tensor.size for tensor in first if "exps." not in tensor.name)
    assert ram_bytes_per_token(none, of) == pytest.approx(experts[0] * 8 / 256 + dense)
