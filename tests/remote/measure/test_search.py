"""Which candidate is timed next, and what is made of the samples: a pure search on a simulated box."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as some
from llamarig.remote.measure.paired_difference import Rule
from llamarig.remote.measure.replay import Replayed
from llamarig.remote.measure.search import (
    CURRENT,
    OutOfTimeError,
    Sample,
    Search,
    Wanted,
    concluded,
    finals,
    screen,
    usable,
)

from tests.remote.measure.noisy_timings import REALISTIC, Noise

T = TypeVar("T")
RULE = Rule()


def sample(
    candidate: str, seconds: float | None, limit_s: float | None = None, disturbed: tuple[str, ...] = ()
) -> Sample:
    if seconds is None:
        return Sample(candidate, problem="does not start")
    cut = limit_s is not None and seconds > limit_s
    replayed = Replayed(seconds=limit_s if cut and limit_s is not None else seconds, first_token_s=0.0)
    return Sample(candidate, replayed=replayed, cut=cut, disturbed=disturbed)


def perform(
    search: Search[T], seconds_of: Callable[[Wanted], float | None], most: int = 1000
) -> tuple[T, list[tuple[Wanted, Sample]]]:
    """Run a search on a box where a candidate takes these seconds; None where it does not start."""
    taken: list[tuple[Wanted, Sample]] = []
    try:
        wanted = next(search)
        while True:
            if len(taken) == most:
                search.throw(OutOfTimeError())
            taken.append((wanted, sample(wanted.candidate, seconds_of(wanted), wanted.limit_s)))
            wanted = search.send(taken[-1][1])
    except StopIteration as end:
        result: T = end.value
        return result, taken


def box(speeds: Mapping[str, float], noise: Noise, seed: int = 0, drift: float = 0.001) -> Callable[[Wanted], float]:
    """A box that becomes slower by ``drift`` with every sample; the current setting takes 100 s."""
    random, level = Random(seed), [0.0]

    def seconds_of(wanted: Wanted) -> float:
        level[0] += drift
        return 100 / speeds.get(wanted.candidate, 1.0) * (1 + level[0]) * (1 + abs(noise.of_a_run(random)))

    return seconds_of


# --- screening --------------------------------------------------------------------------------------------------------


def test_every_candidate_is_tried_in_order_and_the_better_ones_again() -> None:
    found, taken = perform(screen(["a", "b", "c", "d"]), box({"a": 1.1, "d": 1.3}, Noise(0, 0)))
    names = [wanted.candidate for wanted, _ in taken]
    assert names == [CURRENT, "a", "b", "c", CURRENT, "d", CURRENT, "d", CURRENT, "a", CURRENT]
    assert found.is_complete
    assert found.candidates["a"].faster == pytest.approx(0.1, abs=0.01)
    assert found.candidates["d"].faster == pytest.approx(0.3, abs=0.01)
    assert found.candidates["b"].faster == pytest.approx(0, abs=0.01)


def test_drift_of_the_box_is_not_taken_for_a_gain() -> None:
    found, _ = perform(screen(list("abcdefgh")), box({}, Noise(0, 0), drift=0.02))
    assert all(abs(one.faster or 0) < 0.02 for one in found.candidates.values())


def test_what_is_clearly_slower_is_given_up() -> None:
    found, taken = perform(screen(["slow", "good"]), box({"slow": 0.1, "good": 1.2}, Noise(0, 0)))
    limits = {wanted.candidate: wanted.limit_s for wanted, _ in taken}
    assert limits["slow"] == pytest.approx(125, rel=0.01)
    assert found.candidates["slow"].was_cut
    assert found.candidates["slow"].samples == 1
    assert found.candidates["good"].samples == 2


def test_a_candidate_that_does_not_start_is_left_out() -> None:
    found, _ = perform(screen(["broken", "good"]), lambda wanted: None if wanted.candidate == "broken" else 50.0)
    assert found.candidates["broken"].faster is None
    assert found.candidates["broken"].remark == "does not start"
    assert found.is_complete


def test_without_the_current_setting_nothing_is_screened() -> None:
    found, taken = perform(screen(["a"]), lambda wanted: None)
    assert found.problem == "does not start"
    assert len(taken) == 1


def test_a_screening_that_runs_out_of_time_tells_what_it_knows() -> None:
    found, _ = perform(screen(["a", "b", "c"]), box({"a": 1.5}, Noise(0, 0)), most=3)
    assert not found.is_complete
    assert found.candidates["a"].faster == pytest.approx(0.5, abs=0.02)
    assert "c" not in found.candidates


# --- finals -----------------------------------------------------------------------------------------------------------


def test_finals_interleave_and_turn_the_order_round() -> None:
    _, taken = perform(finals(["a", "b"], RULE), box({"a": 1.2, "b": 1.0}, Noise(0.01, 0)))
    names = [wanted.candidate for wanted, _ in taken]
    assert names[:12] == [CURRENT, "a", "b", "b", "a", CURRENT, CURRENT, "a", "b", "b", "a", CURRENT]
    assert [wanted.begins for wanted, _ in taken][:4] == [True, False, False, True]


def test_a_decided_candidate_is_not_timed_any_more() -> None:
    found, taken = perform(finals(["a", "b"], Rule(comparisons=2)), box({"a": 1.5, "b": 1.03}, REALISTIC, seed=2))
    assert found.winner == "a"
    assert len(found.pairs["a"]) < len(found.pairs["b"])
    assert [wanted.candidate for wanted, _ in taken].count("a") == len(found.pairs["a"])


def test_equal_finalists_win_seldom_and_a_better_one_mostly() -> None:
    """Whole tunings: one finalist that is equal, in 200 of them; one that is 6 % faster, in 200."""
    equal = [perform(finals(["a"], RULE), box({}, REALISTIC, seed))[0].winner for seed in range(200)]
    better = [perform(finals(["a"], RULE), box({"a": 1.06}, REALISTIC, seed))[0].winner for seed in range(200)]
    assert sum(winner is not None for winner in equal) <= 10
    assert better.count("a") >= 180


def test_a_finalist_that_does_not_start_loses() -> None:
    found, _ = perform(finals(["a", "b"], RULE), lambda one: None if one.candidate == "a" else 100.0)
    assert found.winner is None
    assert found.problems == {"a": "does not start"}


def test_of_two_winners_the_faster_one_is_taken() -> None:
    found, _ = perform(finals(["a", "b"], Rule(comparisons=2)), box({"a": 1.2, "b": 1.4}, Noise(0.005, 0)))
    assert found.winner == "b"


def test_of_two_that_are_alike_the_simpler_one_is_taken() -> None:
    found, _ = perform(finals(["all", "one"], Rule(comparisons=2)), box({"all": 1.205, "one": 1.2}, Noise(0, 0)))
    assert found.differences["all"].faster > found.differences["one"].faster
    assert found.winner == "one"


def test_finals_without_a_usable_current_sample_end() -> None:
    disturbed = [sample(name, 100.0, disturbed=("other load",)) for name in (CURRENT, "a", "a", CURRENT, CURRENT, "a")]
    found, count = perform_samples(finals(["a"], RULE), disturbed, [])
    assert count == 6
    assert not found.is_complete
    assert found.winner is None


def test_a_disturbed_candidate_makes_no_pair() -> None:
    stored = [sample(CURRENT, 100.0), sample("a", 10.0, disturbed=("other load",))]
    assert concluded(stored, finals(["a"], RULE)).pairs == {"a": []}


# --- after an interruption --------------------------------------------------------------------------------------------


@given(some.integers(0, 40), some.integers(0, 1000))
def test_an_interrupted_search_ends_as_one_that_was_not(cut: int, seed: int) -> None:
    """However many samples were stored: whole rounds are kept, and the rest is taken again."""
    whole, taken = perform(finals(["a", "b"], RULE), box({"a": 1.1}, REALISTIC, seed))
    stored = [one for _, one in taken][:cut]
    kept = usable(stored, finals(["a", "b"], RULE))
    assert kept <= len(stored)
    if kept < len(taken):
        assert taken[kept][0].begins
    replayed = iter(one for _, one in taken)
    again, _ = perform_samples(finals(["a", "b"], RULE), [next(replayed) for _ in range(kept)], replayed)
    assert again.winner == whole.winner


def perform_samples(search: Search[T], first: Iterable[Sample], rest: Iterable[Sample]) -> tuple[T, int]:
    count = 0
    try:
        next(search)
        for one in (*first, *rest):
            count += 1
            search.send(one)
    except StopIteration as end:
        result: T = end.value
        return result, count
    raise AssertionError("the search did not end")


def test_samples_of_another_search_are_not_used() -> None:
    stored = [sample(CURRENT, 100.0), sample("a", 90.0), sample("b", 80.0)]
    assert usable(stored, screen(["a", "x"])) == 2
    assert usable(stored, finals(["z"], RULE)) == 0
