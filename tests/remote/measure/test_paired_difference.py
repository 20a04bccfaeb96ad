"""Verdicts on pairs of timings: how often they are wrong, and what they find, by simulation with fixed seeds."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as some
from llamarig.remote.measure.paired_difference import Rule, compare, next_look, t_quantile, trimmed_mean

from tests.remote.measure.noisy_timings import QUIET, REALISTIC, ROUGH, WILD, Noise, interleaved

SERIES = 400
"""Simulated comparisons of each case. A share of 5 % is then known to +-1.1 % (one standard error)."""
ONE, THREE = Rule(), Rule(comparisons=3)
SECONDS = some.lists(some.tuples(some.floats(1, 1e4), some.floats(1, 1e4)), max_size=25)


def share_of(verdict: str, noise: Noise, speed: float, rule: Rule, *, peeking: bool = False) -> float:
    """The share of simulated tunings in which any candidate gets the verdict, at any time if one peeks."""
    random, found = Random(f"{noise} {speed} {rule.comparisons}"), 0
    for _ in range(SERIES):
        series = [interleaved(random, noise, rule.most_pairs, speed) for _ in range(rule.comparisons)]
        stops = range(1, rule.most_pairs + 1) if peeking else [rule.most_pairs]
        found += any(compare(pairs[:stop], rule).verdict == verdict for pairs in series for stop in stops)
    return found / SERIES


# --- wrong verdicts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [QUIET, REALISTIC, ROUGH, WILD])
@pytest.mark.parametrize("rule", [ONE, THREE], ids=["one candidate", "three candidates"])
def test_equal_candidates_seldom_win(noise: Noise, rule: Rule) -> None:
    assert share_of("faster", noise, 1.0, rule) <= 0.05


def test_equal_candidates_seldom_win_whenever_one_looks() -> None:
    """Stopping at the first good moment gains nothing: verdicts are made after fixed numbers of pairs."""
    assert share_of("faster", WILD, 1.0, ONE, peeking=True) <= 0.05


@pytest.mark.parametrize("noise", [QUIET, REALISTIC, ROUGH, WILD])
def test_a_candidate_just_at_the_threshold_seldom_wins(noise: Noise) -> None:
    """The worst case of all that may not win: three of them, each 3 % faster."""
    assert share_of("faster", noise, 1.03, THREE) <= 0.07  # 5 % and two standard errors


def test_without_the_correction_equal_candidates_would_win_often() -> None:
    """The simulation can see false winners: with one look's whole error at every look and threshold zero there are."""
    careless = Rule(threshold=0.0, error=0.05 * 5 * 3, comparisons=3)
    assert share_of("faster", REALISTIC, 1.0, careless) > 0.15


# --- right verdicts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [QUIET, REALISTIC])
def test_a_candidate_that_is_six_percent_faster_is_found(noise: Noise) -> None:
    assert share_of("faster", noise, 1.06, ONE) >= 0.90


def test_six_percent_are_found_among_three_candidates() -> None:
    random = Random(3)
    found = [compare(interleaved(random, REALISTIC, 20, 1.06), THREE).verdict for _ in range(SERIES)]
    assert found.count("faster") / SERIES >= 0.87


def test_a_release_that_is_ten_percent_slower_is_found_with_the_two_exchanged() -> None:
    random, found = Random(4), 0
    for _ in range(SERIES):
        pairs = [(new, old) for old, new in interleaved(random, REALISTIC, 20, 1 / 1.10)]
        found += compare(pairs, Rule(threshold=0.05)).verdict == "faster"
    assert found / SERIES >= 0.90


def test_what_is_much_faster_is_decided_at_the_first_look() -> None:
    random = Random(1)
    found = [compare(interleaved(random, QUIET, 20, 1.3), ONE).pairs for _ in range(SERIES)]
    assert found.count(4) / SERIES > 0.95


def test_equal_candidates_end_early_on_a_quiet_box() -> None:
    random = Random(2)
    found = [compare(interleaved(random, QUIET, 20, 1.0), ONE) for _ in range(SERIES)]
    assert sum(each.verdict == "not faster" for each in found) / SERIES > 0.95
    assert sum(each.pairs for each in found) / SERIES < 8


def test_an_outlier_does_not_hide_a_winner() -> None:
    steady = [(106.0 + number % 3 / 10, 100.0) for number in range(8)]
    assert compare(steady, ONE).verdict == "faster"
    assert compare([*steady[:5], (106.0, 160.0), *steady[5:7]], Rule(looks=(8,))).verdict == "faster"


# --- the numbers ------------------------------------------------------------------------------------------------------


def test_before_the_first_look_nothing_is_decided() -> None:
    found = compare([(200.0, 100.0)] * 3, ONE)
    assert (found.verdict, found.pairs, found.low, found.high) == ("undecided", 3, -1.0, math.inf)
    assert found.faster == pytest.approx(1.0)
    assert compare([], ONE).faster == 0.0


def test_looks_are_after_fixed_numbers_of_pairs() -> None:
    assert [next_look(pairs, ONE) for pairs in (0, 3, 4, 19, 20)] == [4, 4, 8, 20, None]


@given(SECONDS)
def test_exchanging_the_two_negates_the_difference(pairs: list[tuple[float, float]]) -> None:
    there, back = compare(pairs, ONE), compare([(b, a) for a, b in pairs], ONE)
    if there.pairs == back.pairs:
        assert math.log1p(there.faster) == pytest.approx(-math.log1p(back.faster), abs=1e-9)
    assert not (there.verdict == back.verdict == "faster")


@given(SECONDS, some.floats(0.1, 10))
def test_a_faster_box_changes_no_verdict(pairs: list[tuple[float, float]], scale: float) -> None:
    found, scaled = compare(pairs, ONE), compare([(a * scale, b * scale) for a, b in pairs], ONE)
    assert scaled.faster == pytest.approx(found.faster, rel=1e-6, abs=1e-9)


@given(SECONDS)
def test_a_verdict_is_not_revised(pairs: list[tuple[float, float]]) -> None:
    decided = [found for stop in range(len(pairs) + 1) if (found := compare(pairs[:stop], ONE)).is_decided]
    assert len({(found.verdict, found.pairs) for found in decided}) <= 1


@given(some.lists(some.floats(-1, 1), min_size=2, max_size=30))
def test_the_trimmed_mean_lies_among_the_values(values: list[float]) -> None:
    mean, error, freedom = trimmed_mean(values)
    assert min(values) - 1e-12 <= mean <= max(values) + 1e-12
    assert error >= 0
    assert freedom == len(values) - 2 * (len(values) // 5) - 1


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [(0.975, 3, 3.182446), (0.975, 4, 2.776445), (0.995, 1, 63.656741), (0.95, 30, 1.697261), (0.5, 7, 0.0)],
)
def test_quantiles_are_those_of_the_tables(probability: float, freedom: int, expected: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_a_duration_is_positive(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        compare([(1.0, seconds)], ONE)
