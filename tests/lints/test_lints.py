"""Declarations that are probably a mistake have a lint that names the consequence; others have none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.lint_rules import LINT_RULES
from llamarig.declare.model import Model
from llamarig.declare.placement import Override
from llamarig.items.unit_overrides import ACCEPTED
from llamarig.lints import lint as lint_module
from llamarig.lints.lint import Lint
from llamarig.lints.lint_model import coverage_report, needs_header
from llamarig.lints.memory import state_bytes
from llamarig.placement.box_capacity import BoxCapacity
from llamarig.remote.shared.gguf_header import Header

from tests.lints.lint_examples import BOX, CUDA, GIB, lints, model
from tests.lints.override_patterns import NOT_CPP, NOT_PYTHON
from tests.placement.example_models import MIB, qwen3_next

GPU0, GPU1 = "GPU-11111111-2222-3333-4444-555555555555", "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
BOX_D = r"\.([0-1][2-9]|[2-9][0-9]|[0-9][0-9][0-9])\.ffn_(up|down|gate)_exps.=CPU"
"""As written by its owner for "layers 10 and up"."""


def rules(declared: Model, **kwargs: Any) -> list[str]:
    return [lint.rule for lint in lints(declared, **kwargs)]


MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "4-bit KV": ({"cache_type_k": "q4_1", "cache_type_v": "q4_1"}, "kv-4-bit", "there is no newer measurement"),
    "KV no kernel reads": ({"cache_type_k": "iq4_nl"}, "kv-without-kernel", "kernel of this backend reads iq4_nl"),
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
        "does not fit once tensors",
    ),
    "cpu_moe on two GPUs": (
        {"placement": {"kind": "cpu-moe", "layers": 24}, "gpus": [GPU0, GPU1]},
        "cpu-moe-on-several-gpus",
        "stays nearly empty",
    ),
    "inputs longer than a ubatch": ({"task": "rerank", "context": 4096}, "input-over-ubatch", "has 4096"),
    "no split for two GPUs": ({"gpus": [GPU0, GPU1]}, "split-by-free-memory", "each start"),
    "LLAMA_SET_ROWS": ({"environment": {"LLAMA_SET_ROWS": "1"}}, "environment-unread", "was read for a few weeks"),
    "an order beside UUIDs": (
        {"gpus": [GPU0], "environment": {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}},
        "cuda-order-unneeded",
        "has no effect",
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


@pytest.mark.parametrize(("serve", "rule", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_a_lint(serve: dict[str, Any], rule: str, words: str) -> None:
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
        {"task": "embeddings", "pooling": "last", "context": 8192},
        {"task": "embeddings", "context": 4096, "parallel": 2, "batch": 2048, "ubatch": 2048},
        {"placement": {"kind": "cpu-moe", "layers": 24}, "gpus": [GPU0]},
        {"placement": {"kind": "cpu-moe", "layers": 24, "split": [30, 19]}, "gpus": [GPU0, GPU1]},
        {"placement": {"kind": "layers", "gpu": [13, 6], "split": [32, 17]}, "gpus": [GPU0, GPU1]},
        {"environment": {"GGML_CUDA_GRAPH_OPT": "1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}},
        {"threads": 10, "threads_batch": 12, "cpu_affinity": "0-11", "priority": 2},
    ],
)
def test_sound_declarations_have_no_lint(serve: dict[str, Any]) -> None:
    assert lints(model(**serve)) == []


def test_a_lint_shows_how_to_accept_it() -> None:
    (lint,) = lints(model(threads=17))
    assert str(lint).endswith('or accept={"threads-over-cpus": "your reason"} in serve')


def test_an_unknown_box_has_no_lints() -> None:
    declared = model(threads=400, cpu_affinity="0-400", gpus=[GPU0], load_mode="mlock", placement={"kind": "cpu-only"})
    assert lints(declared, box=BoxCapacity()) == []


def test_a_missing_gpu_is_refused() -> None:
    (lint,) = lints(model(gpus=[GPU0]), box=BoxCapacity(gpus=frozenset({GPU1})))
    assert (lint.rule, lint.severity) == ("gpu-missing", "refusal")
    assert GPU1 in lint.consequence
    assert lints(model(gpus=[GPU1]), box=BoxCapacity(gpus=frozenset({GPU0, GPU1}))) == []


# --- placements together with the model's tensors ---------------------------------------------------------------------


@pytest.mark.parametrize(("split", "refused"), [((32, 17), False), ((25, 12), True), ((32, 18), True), ((49,), False)])
def test_a_split_has_to_add_up_to_the_models_layers_and_its_output(split: tuple[int, ...], refused: bool) -> None:
    declared = model(placement={"kind": "layers", "gpu": [1] * len(split), "split": split})
    found = lints(declared, header=qwen3_next(), box=BoxCapacity())
    assert [(lint.rule, lint.severity) for lint in found] == [("layers-of-another-model", "refusal")] * refused


def test_mtp_needs_its_layer() -> None:
    declared = model(speculation={"types": ["draft-mtp"]})
    assert needs_header(declared, CUDA)
    assert rules(declared, header=qwen3_next(), box=BoxCapacity()) == ["mtp-missing"]
    assert rules(declared, header=qwen3_next(nextn=True), box=BoxCapacity()) == []


def override(*rules: str, split: tuple[int, ...] | None = None) -> Model:
    return model(placement=Override(rules=rules, split=split).model_dump())


def test_the_coverage_report_shows_what_each_rule_moves() -> None:
    declared = override(r"blk\.([0-9]|1[0-2])\.=CUDA0", r"blk\.(1[3-8])\.=CUDA1", "exps=CPU")
    assert coverage_report(declared, qwen3_next()) == [
        r"blk\.([0-9]|1[0-2])\.=CUDA0: layers 0-12, 65 tensors, 16640 MiB to CUDA0",
        r"blk\.(1[3-8])\.=CUDA1: layers 13-18, 30 tensors, 7680 MiB to CUDA1",
        "exps=CPU: layers 19-47, 87 tensors, 36540 MiB to CPU",
    ]


def test_the_rule_of_box_d_for_layers_from_ten_misses_two() -> None:
    (lint,) = lints(override(BOX_D), header=qwen3_next(), box=BoxCapacity())
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
def test_rules_with_the_intended_coverage_have_no_lint(rule: str) -> None:
    assert rules(override(rule), header=qwen3_next(), box=BoxCapacity()) == []


def test_a_rule_that_misses_the_fused_tensor_is_a_lint() -> None:
    found = lints(override(r"ffn_(up|down|gate)_exps=CPU"), header=qwen3_next(fused=True), box=BoxCapacity())
    assert [lint.rule for lint in found] == ["override-splits-experts"]
    assert "layers 0-47" in found[0].consequence


def test_a_rule_that_matches_nothing_or_comes_too_late_is_a_lint() -> None:
    escaped_twice = override(r"\\.(6|7)\\.ffn_up_exps=CPU")
    assert rules(escaped_twice, header=qwen3_next(), box=BoxCapacity()) == ["override-matches-nothing"]
    shadowed = lints(override("exps=CPU", r"blk\.0\.ffn_.*exps=CUDA0"), header=qwen3_next(), box=BoxCapacity())
    assert [lint.rule for lint in shadowed] == ["override-matches-nothing"]
    assert "only tensors that earlier rules already move" in shadowed[0].consequence


def test_an_invalid_regular_expression_is_refused() -> None:
    (lint,) = lints(override("blk.(=CPU"), header=qwen3_next())
    assert (lint.rule, lint.severity) == ("override-not-a-regex", "refusal")
    assert coverage_report(override("blk.(=CPU"), qwen3_next()) == []


@pytest.mark.parametrize(
    ("pattern", "severity"),
    # As std::regex takes or refuses them (tests/box/test_refusals_are_true.py).
    [*((pattern, "refusal") for pattern in NOT_CPP), *((pattern, "warning") for pattern in NOT_PYTHON)],
)
def test_only_what_llama_cpp_refuses_is_refused(pattern: str, severity: str) -> None:
    (lint,) = lints(override(f"{pattern}=CPU"), header=qwen3_next(), box=BoxCapacity())
    assert (lint.rule, lint.severity) == ("override-not-a-regex", severity)


def test_numbers_of_yarn_are_read_where_yarn_is_on() -> None:
    declared = {"yarn_original_context": 32768, "yarn_beta_fast": 16.0}
    assert needs_header(model(**declared), CUDA)
    assert rules(model(**declared), header=qwen3_next(), box=BoxCapacity()) == ["yarn-unread"]
    assert rules(model(**declared, yarn_scale=4.0), header=qwen3_next(), box=BoxCapacity()) == []
    assert rules(model(yarn_attn_factor=0.9), header=qwen3_next(), box=BoxCapacity()) == []
    trained = replace(qwen3_next(), metadata={**qwen3_next().metadata, "qwen3next.rope.scaling.type": "yarn"})
    assert rules(model(**declared), header=trained, box=BoxCapacity()) == []


def test_weights_and_kv_cache_on_different_gpus_are_a_lint() -> None:
    """Box A's rules with llama.cpp's own split: layers 13-18 are computed on CUDA1, their KV cache is on CUDA0."""
    rules_a = (r"blk\.([0-9]|1[0-2])\.=CUDA0", r"blk\.(1[3-8])\.=CUDA1", "exps=CPU")
    (lint,) = lints(override(*rules_a, split=(32, 17)), header=qwen3_next(), box=BoxCapacity())
    assert lint.rule == "override-weights-away-from-kv"
    assert "layers 13-18 go to CUDA1" in lint.consequence
    (unknown,) = lints(override(*rules_a), header=qwen3_next(), box=BoxCapacity())
    assert "where free memory splits the layers" in unknown.consequence
    assert lints(override(*rules_a, split=(13, 36)), header=qwen3_next(), box=BoxCapacity()) == []


# --- RAM -------------------------------------------------------------------------------------------------------------


def test_the_size_of_a_checkpoint_is_the_measured_one() -> None:
    """75.375 MiB for Qwen3-Coder-Next (llama-server's own log)."""
    assert state_bytes(qwen3_next()) == 75.375 * MIB
    assert state_bytes(Header(())) == 0


def test_too_little_ram_for_weights_and_caches_is_a_warning() -> None:
    """29 layers of experts are 35.9 GiB; the default prompt cache and 32 checkpoints come on top."""
    placement = {"kind": "layers", "gpu": [13, 6], "split": [32, 17]}
    declared = {"placement": placement, "context": 262144, "ubatch": 2048, "load_mode": "none"}
    (lint,) = lints(model(**declared), header=qwen3_next(), box=BoxCapacity(ram=48 * GIB))
    assert lint.rule == "memory-budget"
    assert "8.0 GiB prompt cache, 2.4 GiB checkpoints, 1.0 GiB buffers" in lint.consequence
    assert "the box swaps" in lint.consequence
    assert lints(model(**declared), header=qwen3_next(), box=BOX) == []
    lower = model(**declared, cache_ram_mib=2048, context_checkpoints=8)
    assert rules(lower, header=qwen3_next(), box=BoxCapacity(ram=48 * GIB)) == ["prompt-cache-too-small"]
    (mapped,) = lints(model(**{**declared, "load_mode": "mmap"}), header=qwen3_next(), box=BoxCapacity(ram=48 * GIB))
    assert "read from the disk again" in mapped.consequence


def test_weights_beyond_the_memory_of_the_gpus_count_as_in_ram() -> None:
    fitted = model(placement={"kind": "fit"}, load_mode="none")
    small = BoxCapacity(ram=48 * GIB, vram=12 * GIB)
    (lint,) = lints(fitted, box=small)
    assert lint.rule == "memory-budget"
    assert lint.consequence.startswith("at least 48.0 GiB of weights in RAM, 8.0 GiB prompt cache")
    assert lints(fitted, box=BoxCapacity(ram=48 * GIB, vram=48 * GIB)) == []
    assert lints(fitted, box=BoxCapacity(ram=48 * GIB)) == [], "nothing is guessed without the GPUs' memory"
    (refused,) = lints(
        model(placement={"kind": "fit"}, load_mode="mlock"), box=BoxCapacity(ram=32 * GIB, vram=12 * GIB)
    )
    assert (refused.rule, refused.severity) == ("memory-lock", "refusal")


def test_a_prompt_cache_larger_than_the_ram_is_a_warning_with_all_weights_on_the_gpu() -> None:
    everything = model(placement={"kind": "all-on-gpu"})
    (lint,) = lints(everything, box=BoxCapacity(ram=8 * GIB))
    assert (lint.rule, "8.0 GiB prompt cache" in lint.consequence) == ("memory-budget", True)
    assert lints(everything, box=BoxCapacity(ram=16 * GIB)) == []


def test_locking_more_than_the_ram_is_refused() -> None:
    declared = model(placement={"kind": "cpu-only"}, load_mode="mlock")
    (lint,) = lints(declared, box=BoxCapacity(ram=32 * GIB))
    assert (lint.rule, lint.severity) == ("memory-lock", "refusal")
    assert "60.0 GiB of weights" in lint.consequence


# --- paths -----------------------------------------------------------------------------------------------------------


def test_a_path_that_the_unit_does_not_see_is_refused() -> None:
    extra = ["--lora-scaled", "/srv/a.gguf:0.5,/usr/share/b.gguf:1", "--chat-template", "not a path"]
    declared = model(extra=extra, environment={"GGML_BACKEND_PATH": "/data/x.so", "XDG_CACHE_HOME": "/tmp/cache"})
    (lint,) = lints(declared)
    assert (lint.rule, lint.severity) == ("path-unseen", "refusal")
    assert "the unit does not see /data/x.so, /srv/a.gguf, only its model's files" in lint.consequence
    assert lint.remedy == 'declare readable_paths=("/data/x.so", "/srv/a.gguf",) in serve'
    readable = declared.serve.model_copy(update={"readable_paths": ("/srv", "/data/x.so")})
    assert lints(declared.model_copy(update={"serve": readable})) == []


@pytest.mark.parametrize(
    ("extra", "paths"),
    [
        (("--lora", "a.gguf"), "a.gguf"),
        (("--lora-scaled", "/usr/share/a.gguf:0.5,adapters/b.gguf:1"), "adapters/b.gguf"),
        (("--chat_template_file", "t.jinja", "-lcs", "c.bin"), "c.bin, t.jinja"),
    ],
)
def test_a_path_from_the_directory_of_a_shell_is_refused(extra: tuple[str, ...], paths: str) -> None:
    (lint,) = lints(model(extra=extra))
    assert (lint.rule, lint.severity) == ("path-unseen", "refusal")
    assert f"would look there for {paths}" in lint.consequence
    assert lints(model(extra=("--chat-template", "not a path", "--grammar", "root ::= x"))) == []


# --- rules -----------------------------------------------------------------------------------------------------------


def test_a_lint_needs_a_rule_that_can_be_accepted() -> None:
    with pytest.raises(ValueError, match=r"missing in declare/lint_rules\.py"):
        Lint("unheard-of", "", "")


def test_every_rule_has_a_lint() -> None:
    source = "".join(path.read_text() for path in Path(lint_module.__file__).parent.glob("*.py"))
    source += f'"{ACCEPTED}"'  # a refusal of an item, which is accepted in the same way
    assert [rule for rule in LINT_RULES if f'"{rule}"' not in source] == []
