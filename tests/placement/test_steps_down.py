"""Steps down from a placement: each one is smaller, the smallest step comes first, and every one is valid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from llamarig.declare.placement import Experts, Layers
from llamarig.placement.model_layers import LayerWeights
from llamarig.placement.steps_down import MAX_STEPS, is_step_down, steps_down

from tests.placement.example_models import moe
from tests.placement.memory_model import MemoryModel


def test_steps_down_on_two_cards_cover_both_cards() -> None:
    steps = steps_down(Layers(gpu=(12, 6), split=(31, 18)), moe(48))
    assert [(step.placement.gpu, step.frees_mib) for step in steps] == [
        ((12, 5), (0, 1260)),
        ((11, 6), (1260, 0)),
        ((12, 4), (0, 2520)),
        ((11, 5), (1260, 1260)),
        ((10, 6), (2520, 0)),
        ((12, 3), (0, 3780)),
        ((11, 4), (1260, 2520)),
        ((10, 5), (2520, 1260)),
        ((9, 6), (3780, 0)),
    ]
    assert all(step.placement.split == (31, 18) for step in steps), "attention, KV and state stay where they are"
    assert steps[1].what == "11 + 6 whole layers"


def test_a_part_of_a_layer_goes_first() -> None:
    steps = steps_down(Layers(gpu=(12,), split=(49,), partial=(("up", "gate"),)), moe(48))
    assert [(step.what, step.frees_mib) for step in steps] == [
        ("12 whole layers", (840,)),
        ("11 whole layers", (2100,)),
        ("10 whole layers", (3360,)),
    ]


def test_a_step_frees_the_size_of_its_own_layer() -> None:
    """UD quants keep some layers at more bits: a step frees the size of its own layer."""
    experts: list[Mapping[Experts, float]] = [{"up": 100.0 + layer} for layer in range(4)]
    steps = steps_down(Layers(gpu=(3,), split=(5,)), LayerWeights((1.0,) * 4, tuple(experts), 1.0))
    assert [step.frees_mib for step in steps] == [(102,), (203,), (303,)]


def test_a_dense_model_moves_its_first_layer_to_ram() -> None:
    dense = LayerWeights((700.0,) * 32, ({},) * 32, 500.0)
    steps = steps_down(Layers(gpu=(20, 12), split=(20, 13)), dense)
    first = {step.frees_mib: step.placement for step in steps}
    assert first[(700, 0)] == Layers(gpu=(19, 12), split=(19, 13), in_ram=1)
    assert first[(0, 700)] == Layers(gpu=(20, 11), split=(20, 12), in_ram=1)
    assert first[(700, 700)] == Layers(gpu=(19, 11), split=(19, 12), in_ram=2)


def test_a_step_down_is_known_without_the_model() -> None:
    dense, moved = LayerWeights((7.0,) * 32, ({},) * 32, 5.0), Layers(gpu=(20, 12), split=(20, 13))
    assert all(is_step_down(step.placement, moved) for step in steps_down(moved, dense))
    mixed = Layers(gpu=(12, 6), split=(31, 20), partial=(("up",), ()), nextn=2)
    assert all(is_step_down(step.placement, mixed) for step in steps_down(mixed, replace(moe(48), nextn=2)))
    for other in (mixed, Layers(gpu=(13, 6), split=(31, 20), nextn=2), Layers(gpu=(12, 2), split=(31, 20), nextn=2)):
        assert not is_step_down(other, mixed)


def test_without_experts_on_a_gpu_there_is_no_step() -> None:
    assert steps_down(Layers(gpu=(0,), split=(49,)), moe(48)) == []


@given(
    shares=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    whole=st.lists(st.integers(0, 20), min_size=3, max_size=3),
    part=st.booleans(),
    in_ram=st.integers(0, 2),
)
def test_every_step_frees_as_much_as_it_claims(shares: list[int], whole: list[int], part: bool, in_ram: int) -> None:
    split = (*shares[:-1], shares[-1] + 1)
    gpu = tuple(min(count, share) for count, share in zip(whole, shares, strict=False))
    kept: tuple[Experts, ...] = ("up",)
    partial = tuple(kept if part and count < share else () for count, share in zip(gpu, shares, strict=True))
    placement = Layers(gpu=gpu, split=split, partial=partial if any(partial) else (), in_ram=in_ram)
    layers = sum(shares) + in_ram
    model = MemoryModel(moe(layers), (10,) * layers, (100,) * len(shares))
    before = model.predict(placement).totals
    steps = steps_down(placement, model.weights)
    assert len({step.placement for step in steps}) == len(steps)
    sizes = [sum(step.frees_mib) for step in steps]
    assert sizes == sorted(sizes)
    for step in steps:
        valid = Layers.model_validate(step.placement.model_dump())
        after = model.predict(valid).totals
        assert [was - now for was, now in zip(before, after, strict=True)] == list(step.frees_mib)
        assert 0 < sum(step.frees_mib) <= MAX_STEPS * 1260
