"""Layers, steps down and lints of all kinds of models; tests/box/test_layer_placement.py runs llama.cpp on the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from llamarig.declare.placement import Layers
from llamarig.placement.model_layers import (
    LayerCounts,
    LayerWeights,
    layer_counts,
    layer_of,
    layer_weights,
    loaded_tensors,
    runs_mtp,
)
from llamarig.placement.pinned_weights import pinnable_mib
from llamarig.placement.steps_down import steps_down
from llamarig.placement.tensor_overrides import host_bytes
from llamarig.remote.shared.gguf_header import Header
from llamarig.render.placement_arguments import partial_layers, placement_arguments

from tests.lints.lint_examples import found
from tests.placement.example_models import moe
from tests.placement.loader_shapes import SHAPES, counted_mib, header_of, placements, write
from tests.placement.mtp_models import MIB

GPUS = ("CUDA0", "CUDA1")


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Header]:
    directory: Path = tmp_path_factory.mktemp("shapes")
    return {name: header_of(write(directory, name)) for name in SHAPES}


COUNTS = {
    "nextn": LayerCounts(10, 1),
    "nextn without tensors": LayerCounts(10, 1),
    "two nextn layers": LayerCounts(10, 2),
    "nextn that is never loaded": LayerCounts(10, 1),
    "nextn that is loaded in part": LayerCounts(8, 2),
    "hunyuan": LayerCounts(8, 1),
    "per-layer embeddings": LayerCounts(30),
    "gemma": LayerCounts(12),
    "minimax": LayerCounts(8),
    "llama 4": LayerCounts(8),
    "looped layers": LayerCounts(12),
    "router layer": LayerCounts(8, 1),
}


@pytest.mark.parametrize("name", SHAPES)
def test_layers_are_counted_as_llama_cpp_does(name: str, headers: dict[str, Header]) -> None:
    assert layer_counts(headers[name].tensors, headers[name].metadata) == COUNTS.get(name, LayerCounts(10))


def gpu_mib(placement: Layers, weights: LayerWeights, gpu: int) -> float:
    """MiB of weights on a GPU by the sizes that plans and steps down are made of."""
    first = placement.in_ram + sum(placement.room[:gpu])
    layers = range(first, first + placement.room[gpu])
    whole, partial = range(first, first + placement.gpu[gpu]), partial_layers(placement)
    parts = [weights.experts[layer].get(kind, 0.0) for layer in layers for kind in partial.get(layer, ())]
    last = max(index for index, share in enumerate(placement.split) if share)
    return (
        sum(weights.dense[layer] for layer in layers)
        + sum(weights.experts_mib(layer) for layer in whole)
        + sum(parts)
        + (weights.output if gpu == last else 0.0)
    )


@pytest.mark.parametrize("name", SHAPES)
def test_plans_and_steps_down_are_made_of_the_weights_that_llama_cpp_loads(
    name: str, headers: dict[str, Header]
) -> None:
    of = headers[name]
    weights = layer_weights(of)
    for placement in placements(of):
        counted = counted_mib(placement, of, GPUS)
        for gpu, device in enumerate(GPUS):
            assert gpu_mib(placement, weights, gpu) == pytest.approx(counted[device], abs=0.01), placement
        assert host_bytes(placement, of) == pytest.approx(counted["CPU"] * MIB)
        assert found(placement, of) in ([], [("override-matches-nothing", "warning")]), placement


@pytest.mark.parametrize("name", SHAPES)
def test_each_step_down_frees_memory_where_it_says(name: str, headers: dict[str, Header]) -> None:
    of = headers[name]
    weights = layer_weights(of)
    for placement in placements(of):
        before = counted_mib(placement, of, GPUS)
        steps = steps_down(placement, weights)
        for step in steps:
            after = counted_mib(step.placement, of, GPUS)
            freed = [before[device] - after[device] for device in GPUS]
            assert all(mib > 0 for mib, named in zip(freed, step.frees_mib, strict=True) if named), step
            if weights.has_experts:
                assert [int(mib + 1e-6) for mib in freed] == list(step.frees_mib), step
        has_more = any(
            weights.experts_mib(layer)
            for gpu, whole in enumerate(placement.gpu)
            for first in [placement.in_ram + sum(placement.room[:gpu])]
            for layer in range(first, first + whole)
        )
        assert bool(steps) or not has_more, placement


def test_a_step_down_passes_over_layers_without_experts(headers: dict[str, Header]) -> None:
    """Every second layer of Llama 4, and leading dense layers: to keep their experts in RAM frees nothing."""
    weights = layer_weights(headers["llama 4"])
    placement = Layers(gpu=(8,), split=(9,))
    assert [step.placement.gpu for step in steps_down(placement, weights)] == [(7,), (5,), (3,)]
    assert all(min(step.frees_mib) > 0 for step in steps_down(placement, weights))
    assert steps_down(Layers(gpu=(2,), split=(11,)), layer_weights(headers["leading dense layers"])) == []


def test_embeddings_of_each_layer_are_in_ram(headers: dict[str, Header]) -> None:
    of = headers["per-layer embeddings"]
    inputs = [tensor for tensor in of.tensors if tensor.name.startswith(("token_embd.", "per_layer_token_embd."))]
    size = sum(tensor.size for tensor in inputs)
    assert size > 500 * MIB
    assert host_bytes(Layers(gpu=(15, 15), split=(15, 16)), of) == size
    assert pinnable_mib(-(-size // MIB), of.tensors) == 0
    assert layer_weights(of).output * MIB < size
    assert layer_of("per_layer_model_proj.weight") == 0


def test_some_architectures_load_a_part_of_multi_token_prediction_without_draft_mtp(
    headers: dict[str, Header],
) -> None:
    def loaded(name: str, *, mtp: bool) -> set[str]:
        of = headers[name]
        trunk = layer_counts(of.tensors, of.metadata).trunk
        return {one.name for one in loaded_tensors(of, mtp=mtp) if (layer_of(one.name) or 0) >= trunk}

    assert loaded("nextn", mtp=False) == set()
    assert "blk.10.nextn.eh_proj.weight" in loaded("nextn", mtp=True)
    assert loaded("nextn that is never loaded", mtp=True) == set()
    part = loaded("nextn that is loaded in part", mtp=False)
    assert {"blk.8.ffn_down_exps.weight", "blk.9.nextn.shared_head_head.weight", "blk.8.attn_gate.weight"} <= part
    assert not part & {"blk.8.attn_q.weight", "blk.8.ffn_norm.weight", "blk.9.nextn.eh_proj.weight"}
    names = ("nextn", "nextn that is loaded in part", "nextn without tensors", "nextn that is never loaded")
    assert [runs_mtp(headers[name]) for name in (*names, "two nextn layers")] == [True, True, False, False, False]


def test_draft_mtp_is_refused_where_llama_cpp_skips_its_layers(headers: dict[str, Header]) -> None:
    speculation = {"types": ["draft-mtp"]}
    placement = Layers(gpu=(5, 5), split=(5, 7), nextn=1)
    refused = ("mtp-missing", "refusal")
    assert refused in found(placement, headers["nextn that is never loaded"], speculation=speculation)
    assert refused in found(placement, headers["nextn without tensors"], speculation=speculation)
    two = Layers(gpu=(5, 5), split=(5, 8), nextn=2)
    assert refused in found(two, headers["two nextn layers"], speculation=speculation)
    assert refused not in found(two, headers["two nextn layers"])
    of = headers["nextn"]
    metadata = {key.replace("deepseek2", "glm5-next"): value for key, value in of.metadata.items()}
    next_glm = replace(of, metadata={**metadata, "general.architecture": "glm5-next"})
    assert refused in found(placement, next_glm, speculation=speculation)
    assert refused not in found(placement, headers["nextn"], speculation=speculation)


def test_deepseek_4_counts_a_layer_without_these_tensors_as_one_that_computes(headers: dict[str, Header]) -> None:
    of = headers["nextn"]
    metadata = {key.replace("deepseek2", "deepseek4"): value for key, value in of.metadata.items()}
    four = replace(of, metadata={**metadata, "general.architecture": "deepseek4"})
    assert layer_counts(four.tensors, four.metadata) == LayerCounts(10, 1)
    trunk = tuple(tensor for tensor in of.tensors if ".nextn." not in tensor.name)
    assert layer_counts(trunk, four.metadata) == LayerCounts(11)


def test_more_than_99_layers_go_to_the_gpus_whole() -> None:
    placement = Layers(gpu=(60, 66), split=(60, 67))
    assert ("--n-gpu-layers", "127") in placement_arguments(placement)
    assert ("--n-gpu-layers", "99") in placement_arguments(Layers(gpu=(12, 6), split=(31, 18)))
    assert steps_down(placement, moe(126))
