"""What is given up when nothing fits: in the declared order, no more than it takes, each with its price."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.planning.plans.candidate import Candidate, Prediction
from tasks.planning.plans.conceding import Decided, NothingFitsError, decide
from tasks.planning.plans.weights import Weights
from tasks.spec.placement import GiveUp, Layers
from tests.planning.plans.memory_model import MemoryModel
from tests.planning.plans.test_search import SETTINGS, weights


def measured(model: MemoryModel, candidate: Candidate) -> Prediction:
    """The memory model with caches in proportion to context and type, and buffers to context and ubatch."""
    share = candidate.context / 262144 * (0.5 if candidate.cache_type_k == "q8_0" else 1)
    context = tuple(round(mib * share) for mib in model.context)
    buffers = tuple(round(mib * candidate.ubatch / 2048) for mib in model.compute)
    return replace(model, context=context, compute=buffers).predict(candidate.placement)


def decided(
    model: MemoryModel, budgets: tuple[int, ...], *give_up: GiveUp, settings: Candidate = SETTINGS
) -> tuple[Decided, int]:
    deciding = decide(model.weights, budgets, settings, give_up)
    runs = 0
    try:
        candidate = next(deciding)
        while True:
            runs += 1
            candidate = deciding.send(measured(model, candidate))
    except StopIteration as end:
        return end.value, runs


# 24 layers of 26 MiB and 100 MiB of q8_0 cache (200 in f16), 243 of output, 2000 of buffers: 5267 MiB without experts.
MODEL = MemoryModel(weights(24), (200,) * 24, (2000,))
DENSE = MemoryModel(Weights((100.0,) * 20, ({},) * 20, 50.0), (20,) * 20, (100,))


def test_nothing_is_given_up_where_it_fits() -> None:
    result, _ = decided(MODEL, (5267,), "ubatch", "context", "layers")
    assert result.given_up == ()


def test_ubatch_first_and_only_as_far_as_it_takes() -> None:
    result, _ = decided(MODEL, (5266,), "ubatch", "context")
    ((given),) = result.given_up
    assert (given.what, given.declared, given.planned, given.frees_mib) == ("ubatch", "2048", "1024", (1000,))
    assert result.found.candidate.ubatch == 1024
    assert result.found.candidate.context == 262144


def test_the_owners_order_is_kept() -> None:
    result, _ = decided(MODEL, (5200,), "context", "ubatch")
    assert [(given.what, given.planned) for given in result.given_up] == [("context", "196608")]


def test_one_after_the_other() -> None:
    result, runs = decided(MODEL, (2900,), "context", "ubatch")
    said = [(given.what, given.declared, given.planned) for given in result.given_up]
    assert said == [("context", "262144", "131072"), ("ubatch", "2048", "512")]
    assert runs <= 40


def test_cache_type_comes_down_to_q8_0() -> None:
    wide = replace(SETTINGS, cache_type_k="f16", cache_type_v="f16")
    result, _ = decided(MODEL, (5400,), "cache_type", settings=wide)
    ((given),) = result.given_up
    assert (given.declared, given.planned, given.frees_mib) == ("f16/f16", "q8_0/q8_0", (2400,))


def test_layers_go_to_ram_as_few_as_it_takes() -> None:
    result, _ = decided(MODEL, (5267 - 3 * 126,), "layers")
    assert result.found.candidate.placement.in_ram == 3
    assert [(given.what, given.planned) for given in result.given_up] == [("layers", "3")]


def test_a_model_without_experts_leaves_layers_in_ram_unasked() -> None:
    # One layer takes 110 MiB with its cache, buffers and output 150.
    result, runs = decided(DENSE, (150 + 14 * 110 + 60,))
    placement = result.found.candidate.placement
    assert (placement.in_ram, placement.gpu, placement.split) == (6, (14,), (15,))
    ((more),) = result.found.next_layer
    assert (more.needs_mib, more.has_mib) == (150 + 15 * 110, 150 + 14 * 110 + 60)
    assert runs <= 40


def test_what_is_not_enough_is_said_with_every_price() -> None:
    with pytest.raises(NothingFitsError) as raised:
        decided(MODEL, (1000,), "ubatch")
    said = str(raised.value)
    assert "CUDA0 would need" in said
    assert "of 1000 MiB" in said
    assert "given up already: ubatch 2048 to 512" in said
    assert "context 131072 frees 1200 MiB" in said
    assert "layers puts whole layers into RAM" in said


def test_not_even_the_output_layer_fits() -> None:
    with pytest.raises(NothingFitsError):
        decided(DENSE, (40,), "layers")


def test_the_settings_are_otherwise_as_declared() -> None:
    result, _ = decided(MODEL, (9000,))
    assert replace(result.found.candidate, placement=Layers(gpu=(0,), split=(1,))) == replace(
        SETTINGS, placement=Layers(gpu=(0,), split=(1,))
    )
