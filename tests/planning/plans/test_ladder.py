"""Steps down from a placement: each takes less, the smallest first, and every one is a placement that can be said."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from tasks.planning.plans.ladder import MOST_STEPS, ladder
from tasks.planning.plans.weights import Weights
from tasks.spec.placement import Experts, Layers
from tests.planning.plans.memory_model import MemoryModel


def moe(layers: int, kinds: tuple[float, float, float] = (420.0, 420.0, 420.0)) -> Weights:
    experts: Mapping[Experts, float] = {"up": kinds[0], "gate": kinds[1], "down": kinds[2]}
    return Weights((30.0,) * layers, (experts,) * layers, 300.0)


def test_two_cards() -> None:
    rungs = ladder(Layers(gpu=(12, 6), split=(31, 18)), moe(48))
    assert [(rung.placement.gpu, rung.frees_mib) for rung in rungs] == [
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
    assert all(rung.placement.split == (31, 18) for rung in rungs), "attention, KV and state stay where they are"
    assert rungs[1].what == "11 + 6 whole layers"


def test_a_part_of_a_layer_goes_first() -> None:
    rungs = ladder(Layers(gpu=(12,), split=(49,), partial=(("up", "gate"),)), moe(48))
    assert [(rung.what, rung.frees_mib) for rung in rungs] == [
        ("12 whole layers", (840,)),
        ("11 whole layers", (2100,)),
        ("10 whole layers", (3360,)),
    ]


def test_layers_that_are_not_alike() -> None:
    """UD quants keep some layers at more bits: what a step frees is that layer's own."""
    experts: list[Mapping[Experts, float]] = [{"up": 100.0 + layer} for layer in range(4)]
    rungs = ladder(Layers(gpu=(3,), split=(5,)), Weights((1.0,) * 4, tuple(experts), 1.0))
    assert [rung.frees_mib for rung in rungs] == [(102,), (203,), (303,)]


def test_a_dense_model_gives_its_first_layer_to_the_ram() -> None:
    dense = Weights((700.0,) * 32, ({},) * 32, 500.0)
    rungs = ladder(Layers(gpu=(20, 12), split=(20, 13)), dense)
    first = {rung.frees_mib: rung.placement for rung in rungs}
    assert first[(700, 0)] == Layers(gpu=(19, 12), split=(19, 13), in_ram=1)
    assert first[(0, 700)] == Layers(gpu=(20, 11), split=(20, 12), in_ram=1)
    assert first[(700, 700)] == Layers(gpu=(19, 11), split=(19, 12), in_ram=2)


def test_no_step_is_left_where_no_expert_is_on_a_gpu() -> None:
    assert ladder(Layers(gpu=(0,), split=(49,)), moe(48)) == []


@given(
    shares=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    whole=st.lists(st.integers(0, 20), min_size=3, max_size=3),
    part=st.booleans(),
    in_ram=st.integers(0, 2),
)
def test_every_step_takes_as_much_less_as_it_says(shares: list[int], whole: list[int], part: bool, in_ram: int) -> None:
    split = (*shares[:-1], shares[-1] + 1)
    gpu = tuple(min(count, share) for count, share in zip(whole, shares, strict=False))
    kept: tuple[Experts, ...] = ("up",)
    partial = tuple(kept if part and count < share else () for count, share in zip(gpu, shares, strict=True))
    placement = Layers(gpu=gpu, split=split, partial=partial if any(partial) else (), in_ram=in_ram)
    layers = sum(shares) + in_ram
    model = MemoryModel(moe(layers), (10,) * layers, (100,) * len(shares))
    before = model.predict(placement).totals
    rungs = ladder(placement, model.weights)
    assert len({rung.placement for rung in rungs}) == len(rungs)
    sizes = [sum(rung.frees_mib) for rung in rungs]
    assert sizes == sorted(sizes)
    for rung in rungs:
        valid = Layers.model_validate(rung.placement.model_dump())
        after = model.predict(valid).totals
        assert [was - now for was, now in zip(before, after, strict=True)] == list(rung.frees_mib)
        assert 0 < sum(rung.frees_mib) <= MOST_STEPS * 1260
