"""Settings that are lowered if nothing fits: in the declared order, no further than necessary, with the memory
freed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from llamarig.declare.placement import GiveUp, Layers
from llamarig.placement.candidate import Candidate, Prediction
from llamarig.placement.fallbacks import NothingFitsError, search_with_fallbacks
from llamarig.placement.model_layers import LayerWeights
from llamarig.placement.search import Found

from tests.placement.example_models import SETTINGS, weights
from tests.placement.memory_model import MemoryModel


def measured(model: MemoryModel, candidate: Candidate) -> Prediction:
    """The memory model with caches in proportion to context and type, and buffers to context and ubatch."""
    share = candidate.context / 262144 * (0.5 if candidate.cache_type_k == "q8_0" else 1)
    context = tuple(round(mib * share) for mib in model.context)
    buffers = tuple(round(mib * candidate.ubatch / 2048) for mib in model.compute)
    return replace(model, context=context, compute=buffers).predict(candidate.placement)


def search(
    model: MemoryModel, budgets: tuple[int, ...], *give_up: GiveUp, settings: Candidate = SETTINGS
) -> tuple[Found, int]:
    steps = search_with_fallbacks(model.weights, budgets, settings, give_up)
    runs = 0
    try:
        candidate, *_ = next(steps)
        while True:
            runs += 1
            candidate, *_ = steps.send(measured(model, candidate))
    except StopIteration as end:
        return end.value, runs


# 24 layers of 26 MiB and 100 MiB of q8_0 cache (200 in f16), 243 of output, 2000 of buffers: 5267 MiB without experts.
MODEL = MemoryModel(weights(24), (200,) * 24, (2000,))
DENSE = MemoryModel(LayerWeights((100.0,) * 20, ({},) * 20, 50.0), (20,) * 20, (100,))


def test_nothing_is_lowered_if_it_fits() -> None:
    result, _ = search(MODEL, (5267,), "ubatch", "context", "layers")
    assert result.given_up == ()


def test_ubatch_is_lowered_no_further_than_necessary() -> None:
    result, _ = search(MODEL, (5266,), "ubatch", "context")
    ((given),) = result.given_up
    assert (given.what, given.declared, given.planned, given.frees_mib) == ("ubatch", "2048", "1024", (1000,))
    assert result.candidate.ubatch == 1024
    assert result.candidate.context == 262144


def test_the_declared_order_is_kept() -> None:
    result, _ = search(MODEL, (5200,), "context", "ubatch")
    assert [(given.what, given.planned) for given in result.given_up] == [("context", "196608")]


def test_settings_are_lowered_one_after_the_other() -> None:
    result, runs = search(MODEL, (2900,), "context", "ubatch")
    lowered = [(given.what, given.declared, given.planned) for given in result.given_up]
    assert lowered == [("context", "262144", "131072"), ("ubatch", "2048", "512")]
    assert runs <= 40


def test_the_cache_type_is_lowered_to_q8_0() -> None:
    wide = replace(SETTINGS, cache_type_k="f16", cache_type_v="f16")
    result, _ = search(MODEL, (5400,), "cache_type", settings=wide)
    ((given),) = result.given_up
    assert (given.declared, given.planned, given.frees_mib) == ("f16/f16", "q8_0/q8_0", (2400,))


def test_as_few_layers_as_necessary_go_to_ram() -> None:
    result, _ = search(MODEL, (5267 - 3 * 126,), "layers")
    assert result.candidate.placement.in_ram == 3
    assert [(given.what, given.planned) for given in result.given_up] == [("layers", "3")]


def test_a_model_without_experts_may_always_keep_layers_in_ram() -> None:
    # One layer takes 110 MiB with its cache, buffers and output 150.
    result, runs = search(DENSE, (150 + 14 * 110 + 60,))
    placement = result.candidate.placement
    assert (placement.in_ram, placement.gpu, placement.split) == (6, (14,), (15,))
    ((more),) = result.next_layer
    assert (more.needs_mib, more.has_mib) == (150 + 15 * 110, 150 + 14 * 110 + 60)
    assert runs <= 40


def test_the_error_lists_what_each_setting_would_free() -> None:
    with pytest.raises(NothingFitsError) as raised:
        search(MODEL, (1000,), "ubatch")
    message = str(raised.value)
    assert "CUDA0 would need" in message
    assert "of 1000 MiB" in message
    assert "given up already: ubatch 2048 to 512" in message
    assert "context 131072 frees 1200 MiB" in message
    assert "layers puts whole layers into RAM" in message


def test_an_output_layer_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(NothingFitsError):
        search(DENSE, (40,), "layers")


def test_other_settings_stay_as_declared() -> None:
    result, _ = search(MODEL, (9000,))
    assert replace(result.candidate, placement=Layers(gpu=(0,), split=(1,))) == replace(
        SETTINGS, placement=Layers(gpu=(0,), split=(1,))
    )
