"""Compares two settings by pairs of timings: how much faster one is, with what confidence, and when to stop timing.

A pair is one timing of each, taken next to each other, so that what drifts slowly (temperature, page cache, other
load) is in both. The comparison is of ln(current / candidate), so that 3 % faster and 3 % slower are the same
distance from equal, and a slow box weighs no more than a fast one.

Timings are looked at after fixed numbers of pairs alone, and the probability of error is shared among these looks and
among the candidates (Bonferroni), so it holds although one stops as soon as something is decided, and however many
candidates are tried. Whoever asks in between gets the verdict of the last look.

The mean is trimmed and its error winsorized (Yuen 1974: "The two-sample trimmed t for unequal population variances",
one-sample form): one pair of five on each side does not count, so a single outlier neither makes nor hides a winner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["faster", "not faster", "undecided"]
"""Whether the candidate is faster by more than the threshold. Is it slower? Ask with the two exchanged."""
LOOKS = (4, 8, 12, 16, 20)
"""Numbers of pairs after which a comparison may be decided."""
_TRIMMED = 0.2


@dataclass(frozen=True)
class Rule:
    """When a comparison is decided.

    ``threshold``: fraction of speed below which a difference does not count, such as 0.03; ``error``: probability that
    any of ``comparisons`` candidates that are no faster than the threshold is called faster; ``looks``: ascending
    numbers of pairs, at least 2, after which is decided.
    """

    threshold: float = 0.03
    error: float = 0.05
    comparisons: int = 1
    looks: Sequence[int] = LOOKS

    @property
    def error_of_a_look(self) -> float:
        """One-sided probability of error of a single interval."""
        return self.error / (len(self.looks) * max(1, self.comparisons))

    @property
    def most_pairs(self) -> int:
        """Pairs after which nothing more is decided."""
        return self.looks[-1]


@dataclass(frozen=True)
class PairedDifference:
    """How much faster the candidate is, as fractions: 0.06 is six percent more work in the same time.

    ``low`` and ``high`` bound it after ``pairs`` pairs, each with the rule's one-sided probability of error; they are
    infinite before the first look.
    """

    verdict: Verdict
    pairs: int
    faster: float
    low: float
    high: float

    @property
    def is_decided(self) -> bool:
        """Whether more pairs would change nothing."""
        return self.verdict != "undecided"


def compare(pairs: Sequence[tuple[float, float]], rule: Rule) -> PairedDifference:
    """Compare a candidate with the current setting.

    :param pairs: seconds of the current setting and of the candidate for the same work, in the order of their timing
    :raises ValueError: for a duration that is not positive
    """
    if any(not (0 < seconds < math.inf) for pair in pairs for seconds in pair):
        raise ValueError("a duration is positive and finite")
    differences = [math.log(current / candidate) for current, candidate in pairs]
    found = PairedDifference("undecided", len(pairs), *_as_fractions(_middle(differences), -math.inf, math.inf))
    for look in rule.looks:
        if look > len(differences):
            break
        found = _at_look(differences[:look], rule)
        if found.is_decided:
            break
    return found


def next_look(pairs: int, rule: Rule) -> int | None:
    """The number of pairs after which is decided next; None after the last."""
    return next((look for look in rule.looks if look > pairs), None)


def _at_look(differences: Sequence[float], rule: Rule) -> PairedDifference:
    mean, error, freedom = trimmed_mean(differences)
    reach = error * t_quantile(1 - rule.error_of_a_look, freedom)
    low, high, enough = mean - reach, mean + reach, math.log1p(rule.threshold)
    verdict: Verdict = "undecided"
    if low > enough:
        verdict = "faster"
    elif high < enough:
        verdict = "not faster"
    return PairedDifference(verdict, len(differences), *_as_fractions(mean, low, high))


def _as_fractions(*logarithms: float) -> tuple[float, ...]:
    return tuple(math.expm1(value) if value < math.inf else math.inf for value in logarithms)


def _middle(values: Sequence[float]) -> float:
    return trimmed_mean(values)[0] if values else 0.0


def trimmed_mean(values: Sequence[float]) -> tuple[float, float, int]:
    """Mean without the extremes, its standard error, and the error's degrees of freedom.

    Of fewer than five values nothing is trimmed. The error of a single value is infinite, with one degree of freedom.
    """
    ordered, cut = sorted(values), int(_TRIMMED * len(values))
    kept = ordered[cut : len(ordered) - cut]
    mean = math.fsum(kept) / len(kept)
    if len(kept) < 2:
        return mean, math.inf, 1
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    centre = math.fsum(winsorized) / len(winsorized)
    squares = math.fsum((value - centre) ** 2 for value in winsorized)
    return mean, math.sqrt(squares / (len(kept) * (len(kept) - 1))), len(kept) - 1


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution, by bisection.

    :param probability: from 0.5 to below 1
    :raises ValueError: for another one
    """
    if not 0.5 <= probability < 1:
        raise ValueError("a probability from 0.5 to below 1")
    low, high = 0.0, 1.0
    while _within(high, freedom) < 2 * probability - 1:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 2 * probability - 1 else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """The probability that Student's t lies between -t and t (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    if freedom % 2:
        term, total = math.cos(angle), 0.0
        for index in range(1, freedom // 2 + 1):
            total += term
            term *= square * 2 * index / (2 * index + 1)
        return 2 / math.pi * (angle + sine * total)
    term, total = 1.0, 0.0
    for index in range(1, freedom // 2 + 1):
        total += term
        term *= square * (2 * index - 1) / (2 * index)
    return sine * total
