"""What llama-fit-params is told, and what is read from its words; data/ is what the pinned commit's really printed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tasks.planning.plans.candidate import Candidate
from tasks.planning.plans.device import Device
from tasks.planning.plans.dry_run import (
    DryRunError,
    command,
    draft_arguments,
    dry_run_arguments,
    fit_arguments,
    memory_arguments,
    prediction,
    server_outputs,
)
from tasks.planning.plans.fit_peer import fit_answer, fit_layers
from tasks.planning.plans.weights import weights_of
from tasks.spec.model import Model
from tasks.spec.placement import Layers
from tasks.spec.serve import Serve
from tests.planning.golden_units import PINNED
from tests.planning.test_lints import qwen3_next

CARDS = (Device("CUDA0", "RTX 4090", 24564, 23671), Device("CUDA1", "RTX 5070 Ti", 16303, 12761))
DATA = Path(__file__).parent / "data"
CANDIDATE = Candidate(Layers(gpu=(15, 6), split=(21, 28)), 262144, 1024, "q8_0", "q4_0")


def said(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


def model(**serve: Any) -> Model:
    placed = {"port": 8080, "context": 65536, "placement": {"kind": "auto"}, **serve}
    return Model(name="m", repo="o/r", quant="Q6_K", build="b", serve=Serve.model_validate(placed))


# --- what it is told -------------------------------------------------------------------------------------------------


def test_a_candidate_is_measured_with_the_flags_that_will_serve() -> None:
    arguments = dry_run_arguments(model(batch=4096, op_offload=False), "/m.gguf", PINNED, CANDIDATE)
    pairs = dict(pairwise(arguments))
    assert (pairs["--model"], pairs["--ctx-size"], pairs["--ubatch-size"]) == ("/m.gguf", "262144", "1024")
    assert (pairs["--batch-size"], pairs["--cache-type-k"], pairs["--cache-type-v"]) == ("4096", "q8_0", "q4_0")
    assert (pairs["--tensor-split"], pairs["--fit"], pairs["--fit-print"]) == ("21,28", "off", "on")
    assert pairs["--override-tensor"].endswith("exps=CPU")
    assert "--no-op-offload" in arguments
    assert "--device" not in arguments


def test_flags_of_the_server_alone_are_left_out() -> None:
    declared = model(metrics=True, cache_ram_mib=64, context_checkpoints=2, extra=["--props", "--slot-save-path", "/x"])
    arguments = dry_run_arguments(declared, "/m.gguf", PINNED, CANDIDATE)
    for flag in ("--port", "--host", "--alias", "--metrics", "--cache-ram", "--ctx-checkpoints", "--jinja", "--props"):
        assert flag not in arguments
    assert memory_arguments(["--fit", "on", "--ctx-size", "1"], placement=False) == ["--ctx-size", "1"]


def test_flags_that_decide_memory_are_kept() -> None:
    arguments = dry_run_arguments(model(swa_full=True, kv_offload=False), "/m.gguf", PINNED, CANDIDATE)
    assert {"--swa-full", "--no-kv-offload"} <= set(arguments)


def test_fit_is_asked_without_a_placement_and_with_the_same_margins() -> None:
    arguments = fit_arguments(model(), "/m.gguf", PINNED, CANDIDATE, [384, 1024], ["CUDA0", "CUDA1"])
    assert arguments[-4:] == ["--fit", "on", "--fit-target", "384,1024"]
    assert not {"--tensor-split", "--override-tensor", "--n-gpu-layers", "--fit-print"} & set(arguments)
    assert arguments[arguments.index("--device") + 1] == "CUDA0,CUDA1"


def test_the_shell_sees_one_word_an_argument() -> None:
    line = command("/opt/r", ["--override-tensor", "blk[.](1|2)=CPU"], {"LLAMARIG_SIMULATED_GPUS": "RTX 4090:2:1"})
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
def test_for_how_many_tokens_the_server_keeps_logits(serve: dict[str, Any], tokens: int) -> None:
    assert server_outputs(model(**serve)) == tokens


def test_a_draft_is_measured_with_its_own_cache_types() -> None:
    declared = model(speculation={"types": ["draft-mtp"], "draft_cache_type_k": "q8_0", "draft_gpu_layers": 9})
    arguments = draft_arguments(declared, "/draft.gguf")
    assert arguments[arguments.index("--cache-type-k") + 1] == "q8_0"
    assert arguments[arguments.index("--cache-type-v") + 1] == "f16"
    assert arguments[arguments.index("--n-gpu-layers") + 1] == "9"


# --- what it says ----------------------------------------------------------------------------------------------------


def test_rows_splits_and_caches_of_a_hybrid_model() -> None:
    found = prediction(said("qwen3-coder-next-q6"), "the dry run")
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
    found = prediction(said("gpt-oss-120b"), "the dry run")
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
def test_a_failure_is_told_in_its_own_words(name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(DryRunError) as raised:
        prediction(said(name), "the dry run")
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("output", ["", "exit=0", "CUDA0 1 2 3", "Host 1 2", "CUDA0 a b c\nHost 1 2 x"])
def test_other_words_are_no_prediction(output: str) -> None:
    with pytest.raises(DryRunError):
        prediction(output, "the dry run")


# --- fit -------------------------------------------------------------------------------------------------------------


def test_fits_answer_is_counted_in_layers() -> None:
    header = qwen3_next()
    answer = fit_answer(said("fit-qwen3-coder-next-q6"))
    # Layer 15 has its way down on the other GPU; of 21, some experts are in RAM, of 22 to 47 all.
    found = fit_layers(answer, weights_of(header), header.tensors, CARDS)
    assert (found.whole, found.spread) == ((15, 5), 1)


def test_fits_refusal_is_told() -> None:
    with pytest.raises(DryRunError, match="n_gpu_layers already set by user"):
        fit_answer(said("fit-gave-up"))


def test_an_answer_that_changes_nothing_has_every_layer_whole() -> None:
    header = qwen3_next()
    weights = weights_of(header)
    assert fit_layers(["-c", "4096", "-ngl", "-1"], weights, header.tensors, CARDS[:1]).whole == (48,)
    # By free memory, as llama.cpp does it: 65 % of 49 on the first.
    assert fit_layers(["-c", "4096", "-ngl", "-1"], weights, header.tensors, CARDS).whole == (32, 16)
    part = ["-c", "1", "-ngl", "41", "-ts", "41,0"]
    assert fit_layers(part, weights, header.tensors, CARDS).whole == (40, 0)
