"""What is declared and probably not meant is said, with its consequence; what is meant is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.planning.box import Box, cpu_list
from tasks.planning.coverage import LayerCounts, covered, host_bytes, layer_counts, ranges
from tasks.planning.gguf_header import Header, Tensor, Value
from tasks.planning.lints import lint as lint_module
from tasks.planning.lints.lint import Lint
from tasks.planning.lints.lint_model import coverage_report, lint_model, wants_header
from tasks.planning.lints.memory import state_bytes
from tasks.spec.build import Build
from tasks.spec.lint_rules import LINT_RULES
from tasks.spec.model import Model
from tasks.spec.placement import Layers, Override, Placement
from tasks.spec.serve import Serve

CUDA = Build(name="b", backend="cuda", architectures=("89-real",), cuda_toolkit="13.0")
BOX = Box(ram=64 << 30, cpus=frozenset(range(16)))
GIB, MIB = 1 << 30, 1 << 20
GPU0, GPU1 = "GPU-11111111-2222-3333-4444-555555555555", "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
BOX_D = r"\.([0-1][2-9]|[2-9][0-9]|[0-9][0-9][0-9])\.ffn_(up|down|gate)_exps.=CPU"
"""As its owner wrote it, for "layers 10 and up"."""


def qwen3_next(layers: int = 48, *, fused: bool = False, nextn: bool = False) -> Header:
    """Qwen3-Coder-Next's tensors at Q6_K: 420 MiB an expert tensor (src/models/qwen3next.cpp, pinned commit)."""
    experts = ("gate_up", "down") if fused else ("gate", "up", "down")
    tensors = [Tensor("token_embd.weight", (2048, 151936), "Q6_K", 243 * MIB)]
    for layer in range(layers):
        attention = ("attn_q", "attn_k") if (layer + 1) % 4 == 0 else ("attn_qkv", "ssm_conv1d")
        tensors += [Tensor(f"blk.{layer}.{name}.weight", (2048, 512), "Q6_K", 10 * MIB) for name in attention]
        tensors += [
            Tensor(f"blk.{layer}.ffn_{name}_exps.weight", (2048, 512, 512), "Q6_K", 1260 // len(experts) * MIB)
            for name in experts
        ]
    if nextn:
        tensors.append(Tensor(f"blk.{layers}.nextn.eh_proj.weight", (2048, 4096), "Q6_K", 10 * MIB))
    tensors.append(Tensor("output.weight", (2048, 151936), "Q6_K", 243 * MIB))
    sizes = {"conv_kernel": 4, "inner_size": 4096, "state_size": 128, "group_count": 16}
    metadata: dict[str, Value] = {
        "general.architecture": "qwen3next",
        **{f"qwen3next.ssm.{key}": value for key, value in sizes.items()},
    }
    return Header(tuple(tensors), metadata)


def model(**serve: Any) -> Model:
    said = {"port": 1, "context": 4096, **serve}
    return Model(name="m", repo="o/r", quant="Q6_K", build="b", serve=Serve.model_validate(said))


def lints(declared: Model, *, header: Header | None = None, box: Box = BOX, build: Build = CUDA) -> list[Lint]:
    return lint_model(declared, build, box, 60 * GIB, header)


def rules(declared: Model, **kwargs: Any) -> list[str]:
    return [lint.rule for lint in lints(declared, **kwargs)]


SAID: dict[str, tuple[dict[str, Any], str, str]] = {
    "4-bit KV": ({"cache_type_k": "q4_1", "cache_type_v": "q4_1"}, "kv-4-bit", "nobody has measured it anew"),
    "KV no kernel reads": ({"cache_type_k": "iq4_nl"}, "kv-without-kernel", "iq4_nl on this backend"),
    "KV types that abort under tensor split": (
        {"cache_type_k": "q5_1", "cache_type_v": "q8_0", "split_mode": "tensor"},
        "kv-under-tensor-split",
        "a KV cache of q5_1 under split_mode tensor is reported to abort",
    ),
    "fit under tensor split": (
        {"split_mode": "tensor", "placement": {"kind": "fit"}},
        "fit-under-tensor-split",
        "does not fit under split_mode tensor",
    ),
    "fit with dense layers by hand": (
        {"placement": {"kind": "fit"}, "extra": ["--n-cpu-ffn", "4"]},
        "fit-with-cpu-ffn",
        "stops fitting",
    ),
    "cpu_moe on two GPUs": (
        {"placement": {"kind": "cpu-moe", "layers": 24}, "gpus": [GPU0, GPU1]},
        "cpu-moe-on-several-gpus",
        "stays nearly empty",
    ),
    "no split for two GPUs": ({"gpus": [GPU0, GPU1]}, "split-by-free-memory", "each start"),
    "LLAMA_SET_ROWS": ({"environment": {"LLAMA_SET_ROWS": "1"}}, "environment-unread", "was read for a few weeks"),
    "an order beside UUIDs": (
        {"gpus": [GPU0], "environment": {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}},
        "cuda-order-unneeded",
        "decides nothing",
    ),
    "more threads than CPUs": ({"threads": 17}, "threads-over-cpus", "17 threads on 16 CPUs"),
    "more batch threads than allowed CPUs": (
        {"threads": 4, "threads_batch": 5, "cpu_affinity": "0-3"},
        "threads-over-cpus",
        "5 threads on 4 CPUs",
    ),
    "real time everywhere": ({"threads": 16, "priority": 2}, "real-time-on-every-cpu", "sshd"),
    "CPUs of another box": ({"cpu_affinity": "0-19"}, "affinity-beyond-cpus", "names 16-19, but this box has 0-15"),
}


@pytest.mark.parametrize(("serve", "rule", "words"), SAID.values(), ids=SAID.keys())
def test_what_is_said(serve: dict[str, Any], rule: str, words: str) -> None:
    (lint,) = lints(model(**serve))
    assert lint.rule == rule
    assert words in lint.consequence
    assert rules(model(**serve, accept={rule: "measured"})) == []


@pytest.mark.parametrize(
    "serve",
    [
        {},
        {"cache_type_k": "q8_0", "cache_type_v": "q8_0"},
        {"cache_type_k": "q8_0", "cache_type_v": "q8_0", "split_mode": "tensor"},
        {"cache_type_k": "q8_0", "split_mode": "tensor", "accept": {"kv-under-tensor-split": "it was refused once"}},
        {"placement": {"kind": "fit"}},
        {"placement": {"kind": "cpu-moe", "layers": 24}, "gpus": [GPU0]},
        {"placement": {"kind": "layers", "gpu": [13, 6], "split": [32, 17]}, "gpus": [GPU0, GPU1]},
        {"environment": {"GGML_CUDA_GRAPH_OPT": "1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}},
        {"threads": 10, "threads_batch": 12, "cpu_affinity": "0-11", "priority": 2},
    ],
)
def test_what_is_not(serve: dict[str, Any]) -> None:
    assert lints(model(**serve)) == []


def test_a_lint_says_how_to_accept_it() -> None:
    (lint,) = lints(model(threads=17))
    assert str(lint).endswith('or accept={"threads-over-cpus": "your reason"} in serve')


def test_a_box_that_tells_nothing_is_not_guessed_at() -> None:
    declared = model(threads=400, cpu_affinity="0-400", gpus=[GPU0], load_mode="mlock", placement={"kind": "cpu-only"})
    assert lints(declared, box=Box()) == []


def test_a_gpu_that_is_not_there_is_refused() -> None:
    (lint,) = lints(model(gpus=[GPU0]), box=Box(gpus=frozenset({GPU1})))
    assert (lint.rule, lint.severity) == ("gpu-missing", "refusal")
    assert GPU1 in lint.consequence
    assert lints(model(gpus=[GPU1]), box=Box(gpus=frozenset({GPU0, GPU1}))) == []


# --- placements beside the model's own tensors -----------------------------------------------------------------------


@pytest.mark.parametrize(("split", "refused"), [((32, 17), False), ((25, 12), True), ((32, 18), True), ((49,), False)])
def test_a_split_has_to_add_up_to_the_models_layers_and_its_output(split: tuple[int, ...], refused: bool) -> None:
    declared = model(placement={"kind": "layers", "gpu": [1] * len(split), "split": split})
    found = lints(declared, header=qwen3_next(), box=Box())
    assert [(lint.rule, lint.severity) for lint in found] == [("layers-of-another-model", "refusal")] * refused


def test_layers_of_a_header_without_their_number_are_counted_by_its_tensors() -> None:
    """What llama.cpp reads from metadata is tested in test_mtp_layers.py."""
    for header, counts in ((qwen3_next(), LayerCounts(48)), (qwen3_next(nextn=True), LayerCounts(48, 1))):
        assert layer_counts(header.tensors, header.metadata) == counts


def test_mtp_needs_its_layer() -> None:
    declared = model(speculation={"types": ["draft-mtp"]})
    assert wants_header(declared)
    assert rules(declared, header=qwen3_next(), box=Box()) == ["mtp-missing"]
    assert rules(declared, header=qwen3_next(nextn=True), box=Box()) == []


def override(*rules: str, split: tuple[int, ...] | None = None) -> Model:
    return model(placement=Override(rules=rules, split=split).model_dump())


def test_what_each_rule_moves_is_told() -> None:
    declared = override(r"blk\.([0-9]|1[0-2])\.=CUDA0", r"blk\.(1[3-8])\.=CUDA1", "exps=CPU")
    assert coverage_report(declared, qwen3_next()) == [
        r"blk\.([0-9]|1[0-2])\.=CUDA0: layers 0-12, 65 tensors, 16640 MiB to CUDA0",
        r"blk\.(1[3-8])\.=CUDA1: layers 13-18, 30 tensors, 7680 MiB to CUDA1",
        "exps=CPU: layers 19-47, 87 tensors, 36540 MiB to CPU",
    ]


def test_box_ds_ten_and_up_is_twelve_and_up() -> None:
    (lint,) = lints(override(BOX_D), header=qwen3_next(), box=Box())
    assert lint.rule == "override-misses-numbers"
    assert "covers layers 12-47 and leaves 10-11 out" in lint.consequence


@pytest.mark.parametrize(
    "rule",
    [
        r"\.(6|7|8|9|[0-9][0-9]|[0-9][0-9][0-9])\.ffn_(gate|up|down)_exps.=CPU",
        r"\.([1][2-9]|[2-9][0-9]|[0-9][0-9][0-9])\.ffn_(up|down|gate)_exps.=CPU",
        r"blk\.([0-9]|1[0-2])\.ffn_.*_exps=CPU",
        r"\.([1-9][0-9])\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU",
        "exps=CPU",
    ],
)
def test_rules_that_cover_what_they_say_are_left_alone(rule: str) -> None:
    assert rules(override(rule), header=qwen3_next(), box=Box()) == []


def test_a_rule_that_misses_the_fused_tensor() -> None:
    found = lints(override(r"ffn_(up|down|gate)_exps=CPU"), header=qwen3_next(fused=True), box=Box())
    assert [lint.rule for lint in found] == ["override-splits-experts"]
    assert "layers 0-47" in found[0].consequence


def test_a_rule_that_matches_nothing_or_comes_too_late() -> None:
    escaped_twice = override(r"\\.(6|7)\\.ffn_up_exps=CPU")
    assert rules(escaped_twice, header=qwen3_next(), box=Box()) == ["override-matches-nothing"]
    shadowed = lints(override("exps=CPU", r"blk\.0\.ffn_.*exps=CUDA0"), header=qwen3_next(), box=Box())
    assert [lint.rule for lint in shadowed] == ["override-matches-nothing"]
    assert "only tensors that earlier rules have taken" in shadowed[0].consequence


def test_a_rule_that_is_no_regular_expression_is_refused() -> None:
    (lint,) = lints(override("blk.(=CPU"), header=qwen3_next())
    assert (lint.rule, lint.severity) == ("override-not-a-regex", "refusal")
    assert coverage_report(override("blk.(=CPU"), qwen3_next()) == []


def test_weights_and_kv_on_different_gpus() -> None:
    """Box A's rules with the split llama.cpp chose by itself: layers 13-18 computed on CUDA1, their KV on CUDA0."""
    rules_a = (r"blk\.([0-9]|1[0-2])\.=CUDA0", r"blk\.(1[3-8])\.=CUDA1", "exps=CPU")
    (apart,) = lints(override(*rules_a, split=(32, 17)), header=qwen3_next(), box=Box())
    assert apart.rule == "override-weights-away-from-kv"
    assert "layers 13-18 go to CUDA1" in apart.consequence
    (unknown,) = lints(override(*rules_a), header=qwen3_next(), box=Box())
    assert "where free memory splits the layers" in unknown.consequence
    assert lints(override(*rules_a, split=(13, 36)), header=qwen3_next(), box=Box()) == []


# --- RAM -------------------------------------------------------------------------------------------------------------


def test_state_of_a_checkpoint_is_what_was_measured() -> None:
    """75.375 MiB for Qwen3-Coder-Next (llama-server's own log)."""
    assert state_bytes(qwen3_next()) == 75.375 * MIB
    assert state_bytes(Header(())) == 0


@pytest.mark.parametrize(
    ("placement", "mebibytes"),
    [
        (Layers(gpu=(13, 6), split=(32, 17)), 29 * 1260 + 243),
        (Override(rules=("exps=CPU",)), 48 * 1260 + 243),
        (Override(rules=("exps=CUDA0",)), 243),
        (Override(rules=("exps=CPU",), gpu_layers=48), 48 * 1260 + 20 + 243),
    ],
)
def test_weights_that_stay_in_ram(placement: Placement, mebibytes: int) -> None:
    assert host_bytes(placement, qwen3_next()) == mebibytes * MIB


def test_ram_that_is_not_enough_for_all_of_it() -> None:
    """29 layers of experts are 35.9 GiB; the prompt cache and 32 checkpoints come on top, unasked."""
    placement = {"kind": "layers", "gpu": [13, 6], "split": [32, 17]}
    declared = {"placement": placement, "context": 262144, "ubatch": 2048, "load_mode": "none"}
    (lint,) = lints(model(**declared), header=qwen3_next(), box=Box(ram=48 * GIB))
    assert lint.rule == "memory-budget"
    assert "8.0 GiB prompt cache, 2.4 GiB checkpoints, 1.0 GiB buffers" in lint.consequence
    assert "the box swaps" in lint.consequence
    assert lints(model(**declared), header=qwen3_next(), box=BOX) == []
    lower = model(**declared, cache_ram_mib=2048, context_checkpoints=8)
    assert lints(lower, header=qwen3_next(), box=Box(ram=48 * GIB)) == []
    (mapped,) = lints(model(**{**declared, "load_mode": "mmap"}), header=qwen3_next(), box=Box(ram=48 * GIB))
    assert "read from the disk again" in mapped.consequence


def test_what_cannot_be_on_the_gpus_is_in_ram_wherever_the_fit_puts_the_rest() -> None:
    fitted = model(placement={"kind": "fit"}, load_mode="none")
    small = Box(ram=48 * GIB, vram=12 * GIB)
    (lint,) = lints(fitted, box=small)
    assert lint.rule == "memory-budget"
    assert lint.consequence.startswith("at least 48.0 GiB of weights in RAM, 8.0 GiB prompt cache")
    assert lints(fitted, box=Box(ram=48 * GIB, vram=48 * GIB)) == []
    assert lints(fitted, box=Box(ram=48 * GIB)) == [], "without the GPUs' memory nothing is guessed"
    (refused,) = lints(model(placement={"kind": "fit"}, load_mode="mlock"), box=Box(ram=32 * GIB, vram=12 * GIB))
    assert (refused.rule, refused.severity) == ("memory-lock", "refusal")


def test_a_prompt_cache_larger_than_the_ram_is_told_though_all_weights_are_on_the_gpu() -> None:
    everything = model(placement={"kind": "all-on-gpu"})
    (lint,) = lints(everything, box=Box(ram=8 * GIB))
    assert (lint.rule, "8.0 GiB prompt cache" in lint.consequence) == ("memory-budget", True)
    assert lints(everything, box=Box(ram=16 * GIB)) == []


def test_a_lock_on_more_than_there_is_is_refused() -> None:
    declared = model(placement={"kind": "cpu-only"}, load_mode="mlock")
    (lint,) = lints(declared, box=Box(ram=32 * GIB))
    assert (lint.rule, lint.severity) == ("memory-lock", "refusal")
    assert "60.0 GiB of weights" in lint.consequence


# --- the words themselves --------------------------------------------------------------------------------------------


def test_a_lint_nobody_could_accept_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"missing in tasks/spec/lint_rules\.py"):
        Lint("unheard-of", "warning", "", "")


def test_first_rule_wins() -> None:
    first, second = covered(["up_exps=CUDA0", "exps=CPU"], qwen3_next().tensors)
    assert {tensor.name for tensor in first.tensors} & {tensor.name for tensor in second.tensors} == set()
    assert len(second.shadowed) == 48


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,8", {0, 1, 2, 3, 8}), ("0 2", {0, 2}), ("7", {7}), ("", set()), ("0..3", set()), ("a-b", set())],
)
def test_lists_of_cpus(text: str, cpus: set[int]) -> None:
    assert cpu_list(text) == cpus


def test_ranges_read_well() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def test_every_name_that_can_be_accepted_is_raised_somewhere() -> None:
    source = "".join(path.read_text() for path in Path(lint_module.__file__).parent.glob("*.py"))
    assert [rule for rule in LINT_RULES if f'"{rule}"' not in source] == []
