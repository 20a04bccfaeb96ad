"""Arguments of llama-fit-params, and the parser of its output; data/ holds output of the pinned commit."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from llamarig.declare.placement import Layers
from llamarig.placement.candidate import Candidate
from llamarig.placement.dry_run import (
    DryRunError,
    draft_arguments,
    dry_run_arguments,
    dry_run_command,
    fit_arguments,
    memory_arguments,
    parse_prediction,
    server_outputs,
    used_devices_arguments,
    with_candidate,
)

from tests.placement.example_models import dry_run_output, model
from tests.render.golden_units import PINNED

CANDIDATE = Candidate(Layers(gpu=(15, 6), split=(21, 28)), 262144, 1024, "q8_0", "q4_0")


# --- arguments -------------------------------------------------------------------------------------------------------


def test_a_candidate_is_measured_with_the_flags_of_the_server() -> None:
    arguments = dry_run_arguments(with_candidate(model(batch=4096, op_offload=False), CANDIDATE), "/m.gguf", PINNED)
    pairs = dict(pairwise(arguments))
    assert (pairs["--model"], pairs["--ctx-size"], pairs["--ubatch-size"]) == ("/m.gguf", "262144", "1024")
    assert (pairs["--batch-size"], pairs["--cache-type-k"], pairs["--cache-type-v"]) == ("4096", "q8_0", "q4_0")
    assert (pairs["--tensor-split"], pairs["--fit"], pairs["--fit-print"]) == ("21,28", "off", "on")
    assert pairs["--override-tensor"].endswith("exps=CPU")
    assert "--no-op-offload" in arguments
    assert "--device" not in arguments


def test_flags_that_only_the_server_knows_are_left_out() -> None:
    declared = model(metrics=True, cache_ram_mib=64, context_checkpoints=2, extra=["--grammar-file", "/x"])
    arguments = dry_run_arguments(with_candidate(declared, CANDIDATE), "/m.gguf", PINNED)
    for flag in (
        "--port",
        "--host",
        "--alias",
        "--metrics",
        "--cache-ram",
        "--ctx-checkpoints",
        "--jinja",
        "--grammar-file",
    ):
        assert flag not in arguments
    assert memory_arguments(["--fit", "on", "--ctx-size", "1"], placement=False) == ["--ctx-size", "1"]


def test_flags_that_decide_memory_are_kept() -> None:
    arguments = dry_run_arguments(with_candidate(model(swa_full=True, kv_offload=False), CANDIDATE), "/m.gguf", PINNED)
    assert {"--swa-full", "--no-kv-offload"} <= set(arguments)


def test_fit_runs_without_a_placement_and_with_the_same_margins() -> None:
    tried = with_candidate(model(), CANDIDATE)
    arguments = fit_arguments(tried, "/m.gguf", PINNED, [384, 1024], ["CUDA0", "CUDA1"])
    assert arguments[-4:] == ["--fit", "on", "--fit-target", "384,1024"]
    assert not {"--tensor-split", "--override-tensor", "--n-gpu-layers", "--fit-print"} & set(arguments)
    assert arguments[arguments.index("--device") + 1] == "CUDA0,CUDA1"


def test_a_plan_is_for_the_gpus_that_a_model_names() -> None:
    """But for simulated ones where there are some: llama.cpp would not know the others."""
    tried, named = with_candidate(model(gpus=["Vulkan1", "Vulkan0"]), CANDIDATE), "Vulkan1,Vulkan0"
    for arguments in (
        dry_run_arguments(tried, "/m.gguf", PINNED),
        fit_arguments(tried, "/m.gguf", PINNED, [384]),
        used_devices_arguments(tried, "/m.gguf"),
        draft_arguments(tried, "/d.gguf"),
    ):
        assert arguments[arguments.index("--device") + 1] == named
    simulated = dry_run_arguments(tried, "/m.gguf", PINNED, ["CUDA0"])
    assert [value for flag, value in pairwise(simulated) if flag == "--device"] == ["CUDA0"]


def test_each_argument_is_one_shell_word() -> None:
    line = dry_run_command(
        "/opt/r", ["--override-tensor", "blk[.](1|2)=CPU"], {"LLAMARIG_SIMULATED_GPUS": "RTX 4090:2:1"}, ["A=b c"]
    )
    assert "'--property=A=b c'" in line
    assert "'LLAMARIG_SIMULATED_GPUS=RTX 4090:2:1'" in line
    assert "'blk[.](1|2)=CPU'" in line


@pytest.mark.parametrize(
    ("serve", "tokens"),
    [
        ({}, 1),
        ({"parallel": 4}, 4),
        ({"speculation": {"types": ["ngram-mod"]}}, 65),
        ({"speculation": {"types": ["draft-mtp"], "draft_max": 5}}, 6),
        ({"speculation": {"types": ["ngram-simple", "draft-mtp"], "ngram_draft": 7}, "parallel": 2}, 16),
        ({"batch": 32, "ubatch": 32, "speculation": {"types": ["ngram-mod"]}}, 32),
    ],
)
def test_number_of_tokens_with_reserved_logits(serve: dict[str, Any], tokens: int) -> None:
    assert server_outputs(model(**serve)) == tokens


def test_a_draft_is_measured_with_its_own_cache_types() -> None:
    declared = model(speculation={"types": ["draft-mtp"], "draft_cache_type_k": "q8_0", "draft_gpu_layers": 9})
    arguments = draft_arguments(declared, "/draft.gguf")
    assert arguments[arguments.index("--cache-type-k") + 1] == "q8_0"
    assert arguments[arguments.index("--cache-type-v") + 1] == "f16"
    assert arguments[arguments.index("--n-gpu-layers") + 1] == "9"


# --- output ----------------------------------------------------------------------------------------------------------


def test_rows_splits_and_caches_of_a_hybrid_model() -> None:
    found = parse_prediction(dry_run_output("qwen3-coder-next-q6"), "the dry run")
    assert [(row.name, row.model_mib, row.context_mib, row.compute_mib) for row in found.gpus] == [
        ("CUDA0", 19566, 1393, 1824),
        ("CUDA1", 8657, 1945, 1728),
    ]
    assert (found.host.model_mib, found.host.compute_mib) == (34263, 1056)
    assert found.splits == (105, 57)
    assert set(found.layer_context) == set(range(48))
    assert [layer for layer, mib in found.layer_context.items() if mib > 200] == list(range(3, 48, 4))
    assert found.layer_context[3] == 272
    assert sum(found.layer_state.values()) == pytest.approx(75.38)
    assert found.checkpoint_mib == 75.38


def test_layers_with_a_sliding_window_have_a_smaller_cache() -> None:
    found = parse_prediction(dry_run_output("gpt-oss-120b"), "the dry run")
    assert (found.layer_context[0], found.layer_context[1]) == (8.5, 128)
    assert found.checkpoint_mib == 153
    assert found.layer_state == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such-file", ("failed to load model", "exit status 134")),
        ("truncated", ("failed to read tensor info", "exit status 134")),
        ("flag-refused", ("invalid argument: --no-mmap", "exit status 1")),
    ],
)
def test_a_failure_is_reported_with_its_error_lines(name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(DryRunError) as raised:
        parse_prediction(dry_run_output(name), "the dry run")
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("output", ["", "exit=0", "CUDA0 1 2 3", "Host 1 2", "CUDA0 a b c\nHost 1 2 x"])
def test_other_output_is_not_a_prediction(output: str) -> None:
    with pytest.raises(DryRunError):
        parse_prediction(output, "the dry run")


@pytest.mark.parametrize("name", ["qwen3-coder-next-q6", "gpt-oss-120b"])
def test_the_data_are_output_of_the_real_program(name: str) -> None:
    assert "sched_reserve: graph" in dry_run_output(name)
