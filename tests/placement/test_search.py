"""The search with a memory model that can try every placement: optimal, in few dry runs, never over the budget."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as some
from llamarig.declare.placement import Experts
from llamarig.placement.model_layers import LayerWeights
from llamarig.placement.search import DoesNotFit, Found, search
from llamarig.render.placement_arguments import layers_with_experts_on_cpu

from tests.placement.example_models import SETTINGS, weights
from tests.placement.memory_model import MemoryModel, Result, run

MOST = 40


def qwen3_next(**kwargs: object) -> MemoryModel:
    """Qwen3-Coder-Next at Q6_K and 256K: every fourth layer has 272 MiB of KV cache, the others 2 MiB of state."""
    context = tuple(272 if (layer + 1) % 4 == 0 else 2 for layer in range(48))
    return MemoryModel(weights(48), context, (1744, 1744), **kwargs)  # type: ignore[arg-type]


def planned(model: MemoryModel, *budgets: int, first: int = 0) -> Result:
    return run(search(model.weights, budgets, SETTINGS, first), model)


def found(result: Result) -> Found:
    assert isinstance(result.outcome, Found)
    return result.outcome


def test_box_a_gets_21_whole_layers() -> None:
    result = planned(qwen3_next(), 23671 - 384, 12761 - 384)
    plan = found(result)
    assert sum(plan.candidate.placement.gpu) == qwen3_next().most_whole((23671 - 384, 12761 - 384))
    assert len(result.measured) <= 12


def test_the_layers_fit_and_one_more_would_not() -> None:
    plan = found(planned(qwen3_next(), 23287, 12377))
    assert all(need <= budget for need, budget in zip(plan.prediction.totals, (23287, 12377), strict=True))
    assert plan.next_layer
    assert all(more.measured and more.needs_mib > more.has_mib for more in plan.next_layer)


def test_what_fits_on_the_fastest_gpu_stays_there() -> None:
    model = MemoryModel(weights(8), (10,) * 8, (500, 500))
    placement = found(planned(model, 24000, 12000)).candidate.placement
    assert (placement.split, placement.gpu) == ((9, 0), (8, 0))
    assert layers_with_experts_on_cpu(placement) == []


def test_space_too_small_for_a_layer_is_used_for_single_tensors() -> None:
    plan = found(planned(MemoryModel(weights(4), (0,) * 4, (100,)), 100 + 243 + 4 * 26 + 900))
    assert plan.candidate.placement.gpu == (0,)
    assert [len(kinds) for kinds in plan.candidate.placement.partial] == [2]


def test_the_closest_placement_is_returned_if_attention_does_not_fit() -> None:
    outcome = planned(qwen3_next(), 3000, 3000).outcome
    assert isinstance(outcome, DoesNotFit)
    assert any(need > 3000 for need in outcome.prediction.totals)


def test_first_layers_in_ram_stay_there() -> None:
    plan = found(planned(qwen3_next(), 23287, 12377, first=5))
    assert plan.candidate.placement.in_ram == 5
    assert sum(plan.candidate.placement.split) == 48 - 5 + 1


small = some.integers(min_value=0, max_value=40)


@some.composite
def models(draw: some.DrawFn) -> tuple[MemoryModel, tuple[int, ...]]:
    layers = draw(some.integers(min_value=1, max_value=10))
    kinds: tuple[Experts, ...] = draw(some.sampled_from([("up", "gate", "down"), ("gate_up", "down"), ()]))
    sizes = draw(some.lists(some.integers(min_value=1, max_value=60), min_size=layers, max_size=layers))
    model = MemoryModel(
        LayerWeights(
            tuple(float(draw(small)) for _ in range(layers)),
            tuple({kind: float(size) for kind in kinds} for size in sizes),
            float(draw(small)),
        ),
        tuple(draw(some.lists(small, min_size=layers, max_size=layers))),
        tuple(draw(some.lists(some.integers(min_value=1, max_value=200), min_size=3, max_size=3))),
        copies=draw(some.sampled_from([0, 0, 30, 300])),
    )
    gpus = draw(some.integers(min_value=1, max_value=3))
    return model, tuple(draw(some.integers(min_value=0, max_value=900)) for _ in range(gpus))


@settings(max_examples=200, deadline=None)
@given(models(), some.integers(min_value=0, max_value=60), some.booleans())
def test_varying_buffers_never_make_a_plan_too_large(
    case: tuple[MemoryModel, tuple[int, ...]], staging: int, tells: bool
) -> None:
    """Experts in RAM are staged on the first GPU, and a release may not print the cache size of each layer."""
    model, budgets = replace(case[0], staging=staging, tells=tells), case[1]
    result = run(search(model.weights, budgets, SETTINGS), model)
    assert len(result.measured) <= MOST
    placement = result.outcome.candidate.placement
    assert result.outcome.prediction == model.predict(placement)
    fits = [need <= budget for need, budget in zip(result.outcome.prediction.totals, budgets, strict=True)]
    assert all(fits) == isinstance(result.outcome, Found)
    if isinstance(result.outcome, Found):
        assert all(more.needs_mib > more.has_mib for more in result.outcome.next_layer)


@settings(max_examples=200, deadline=None)
@given(models())
def test_single_tensors_cost_no_graph_split(case: tuple[MemoryModel, tuple[int, ...]]) -> None:
    model, budgets = case
    outcome = run(search(model.weights, budgets, SETTINGS), model).outcome
    if isinstance(outcome, Found):
        whole = outcome.candidate.placement.model_copy(update={"partial": ()})
        before, after = model.predict(whole).splits, outcome.prediction.splits
        assert before is not None
        assert after is not None
        assert after[1] <= before[1]


@settings(max_examples=400, deadline=None)
@given(models())
def test_no_placement_has_more_whole_layers(case: tuple[MemoryModel, tuple[int, ...]]) -> None:
    model, budgets = case
    result = run(search(model.weights, budgets, SETTINGS), model)
    best = model.most_whole(budgets)
    assert len(result.measured) <= MOST
    if best is None:
        assert isinstance(result.outcome, DoesNotFit)
        return
    plan = found(result)
    assert sum(plan.candidate.placement.gpu) == best
    assert plan.prediction == model.predict(plan.candidate.placement)
    assert all(need <= budget for need, budget in zip(plan.prediction.totals, budgets, strict=True))
