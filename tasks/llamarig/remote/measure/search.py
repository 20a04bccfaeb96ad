"""Which candidate is timed next, and what the timings say: sans-I/O generators, whose caller takes the samples.

Screening tries every candidate once, beside timings of the current setting, and those again that look better. The
finals time the best of them against the current setting, interleaved and from fresh samples: a candidate that won the
screening by luck has to win again. A generator is given the same samples again after an interruption, and continues.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Optional, TypeVar

from llamarig.remote.measure.paired_difference import PairedDifference, Rule, compare
from llamarig.remote.measure.replay import Replayed
from llamarig.remote.shared.record import Record

T = TypeVar("T")

CURRENT = "current"
"""Name of the setting that the candidates are compared with."""
CLEARLY_SLOWER = 1.25
"""Times the current setting's seconds after which the replay of a candidate is given up."""
PROMISING = 0.01
"""Fraction of speed that a candidate has to gain in its first sample to be timed again."""
_CURRENT_EVERY = 3
"""Candidates between two samples of the current setting while screening."""
_MOST_AGAIN = 8
_MOST_SKIPPED = 3
"""Rounds of the finals in a row without a usable sample of the current setting, after which they end."""


class OutOfTimeError(Exception):
    """The time for tuning is over. Thrown into a search, which returns what it knows."""


@dataclass(frozen=True)
class Sample(Record):
    """One replay of one candidate.

    ``problem``: why there are no times; ``cut``: given up as clearly slower, after ``replayed.seconds``;
    ``disturbed``: what disturbed it, in words, each time that it was tried; ``run``: which run of the tuner took it;
    ``start_s``: seconds from the start of the server until it was ready.
    """

    candidate: str
    run: str = ""
    replayed: Optional[Replayed] = None
    cut: bool = False
    problem: str = ""
    disturbed: tuple[str, ...] = ()
    start_s: float = 0.0
    at: str = ""
    """UTC."""

    @property
    def seconds(self) -> Optional[float]:
        """Seconds of the replay; None for a sample that says nothing about the speed."""
        return None if self.disturbed else self.took

    @property
    def took(self) -> Optional[float]:
        """The same, also of a sample that was disturbed each time: better than none, to choose what is timed again."""
        return None if self.replayed is None else self.replayed.seconds


@dataclass(frozen=True)
class Wanted:
    """A sample that is to be taken. ``limit_s``: seconds after which it is given up; ``begins``: a round of samples
    that belong together, so that an interrupted round is taken again whole."""

    candidate: str
    limit_s: Optional[float] = None
    begins: bool = True


Search = Generator[Wanted, Sample, T]


# --- screening --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Screened:
    """What the screening says of a candidate. ``faster``: fraction of speed gained, None where nothing was timed."""

    faster: Optional[float]
    samples: int
    remark: str = ""
    was_cut: bool = False

    @property
    def is_promising(self) -> bool:
        """Whether it is worth more samples."""
        return not self.was_cut and (self.faster or 0) > PROMISING


@dataclass
class Screening:
    """``candidates``: by name, in the order of their trial; ``current``: seconds of the current setting's samples."""

    candidates: dict[str, Screened] = field(default_factory=dict)
    current: list[float] = field(default_factory=list)
    problem: str = ""
    is_complete: bool = False


def screen(candidates: Sequence[str]) -> Search[Screening]:
    """Time every candidate, the cheapest first as given; those that look better a second time."""
    found, taken = Screening(), list[Sample]()
    try:
        for index, name in enumerate(candidates):
            if index % _CURRENT_EVERY == 0 and (yield from _current(taken)) is None:
                found.problem = taken[-1].problem or "; ".join(taken[-1].disturbed)
                break
            taken.append((yield Wanted(name, _limit(taken))))
        if not found.problem:
            yield from _current(taken)
        _judge(found, taken, candidates)
        promising = sorted(
            (name for name, one in found.candidates.items() if one.is_promising),
            key=lambda name: -(found.candidates[name].faster or 0),
        )
        for name in promising[:_MOST_AGAIN]:
            taken.append((yield Wanted(name, _limit(taken))))
            yield from _current(taken)
        found.is_complete = not found.problem
    except OutOfTimeError:
        pass
    _judge(found, taken, candidates)
    return found


def _current(taken: list[Sample]) -> Search[Optional[float]]:
    taken.append((yield Wanted(CURRENT)))
    return taken[-1].took


def _limit(taken: Iterable[Sample]) -> Optional[float]:
    seconds = [one.took for one in taken if one.candidate == CURRENT and one.took is not None]
    return CLEARLY_SLOWER * max(seconds) if seconds else None


def _judge(found: Screening, taken: Sequence[Sample], candidates: Sequence[str]) -> None:
    found.current = [one.took for one in taken if one.candidate == CURRENT and one.took is not None]
    found.candidates = {
        name: _screened([(place, one) for place, one in enumerate(taken) if one.candidate == name], taken)
        for name in candidates
        if any(one.candidate == name for one in taken)
    }


def _screened(samples: Sequence[tuple[int, Sample]], taken: Sequence[Sample]) -> Screened:
    gains, remark = [], ""
    for place, one in samples:
        beside = _beside(place, taken)
        if one.took is not None and beside is not None:
            gains.append(math.log(beside / one.took))
        remark = one.problem or "; ".join(one.disturbed) or ("given up: clearly slower" if one.cut else "")
    was_cut = any(one.cut for _, one in samples)
    if not gains:
        return Screened(None, 0, remark, was_cut)
    return Screened(math.expm1(math.fsum(gains) / len(gains)), len(gains), remark, was_cut)


def _beside(place: int, taken: Sequence[Sample]) -> Optional[float]:
    """Seconds that the current setting would have taken at that place: between its samples before and after."""
    known = [(index, one.took) for index, one in enumerate(taken) if one.candidate == CURRENT and one.took]
    before, after = [one for one in known if one[0] < place], [one for one in known if one[0] > place]
    if before and after:
        (first, early), (last, late) = before[-1], after[0]
        return early + (late - early) * (place - first) / (last - first)
    return before[-1][1] if before else after[0][1] if after else None


# --- finals -----------------------------------------------------------------------------------------------------------


@dataclass
class Finals:
    """``differences``: by candidate; ``pairs``: seconds of the current setting and of the candidate."""

    differences: dict[str, PairedDifference] = field(default_factory=dict)
    pairs: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    is_complete: bool = False

    @property
    def winner(self) -> Optional[str]:
        """The candidate that is faster with confidence; None where there is none.

        Of several the fastest, or one that is as fast within 1 % and comes later in the list: those are simpler.
        """
        faster = {name: one.faster for name, one in self.differences.items() if one.verdict == "faster"}
        good = [name for name, gain in faster.items() if gain >= max(faster.values()) - PROMISING]
        return good[-1] if good else None


def finals(finalists: Sequence[str], rule: Rule) -> Search[Finals]:
    """Time finalists against the current setting in rounds, each of them once, every second round in reverse order.

    :param finalists: names, simpler ones later
    """
    found = Finals(pairs={name: [] for name in finalists})
    running, rounds, skipped = list(finalists), 0, 0
    try:
        while running and skipped < _MOST_SKIPPED:
            samples = yield from _round(running, rounds, found)
            rounds += 1
            current = samples[CURRENT].seconds
            skipped = 0 if current is not None else skipped + 1
            if current is None:
                continue
            running = [name for name in running if not _is_decided(found, name, current, samples[name], rule)]
        found.is_complete = not running
    except OutOfTimeError:
        pass
    found.differences = {name: compare(pairs, rule) for name, pairs in found.pairs.items()}
    return found


def _round(running: Sequence[str], rounds: int, found: Finals) -> Search[dict[str, Sample]]:
    order = [CURRENT, *running] if rounds % 2 == 0 else [*reversed(running), CURRENT]
    known = [current for pairs in found.pairs.values() for current, _ in pairs]
    # A candidate that hangs ends; what is cut counts with the time it had, which is too good for it.
    limit, samples = (4 * max(known) if known else None), {}
    for place, name in enumerate(order):
        samples[name] = yield Wanted(name, limit, begins=place == 0)
    return samples


def _is_decided(found: Finals, name: str, current: float, sample: Sample, rule: Rule) -> bool:
    if sample.problem:
        found.problems[name] = sample.problem
        return True
    pairs = found.pairs[name]
    if sample.seconds is not None:
        pairs.append((current, sample.seconds))
    return len(pairs) >= rule.most_pairs or compare(pairs, rule).is_decided


# --- after an interruption --------------------------------------------------------------------------------------------


def usable(samples: Sequence[Sample], search: Search[T]) -> int:
    """How many of the stored samples a new run of the same search begins with: whole rounds, in their order.

    :param search: a fresh generator, which this consumes
    """
    whole = 0
    try:
        wanted = next(search)
        for place, sample in enumerate(samples):
            if wanted.begins:
                whole = place
            if wanted.candidate != sample.candidate:
                return whole
            wanted = search.send(sample)
        return len(samples) if wanted.begins else whole
    except StopIteration:
        return len(samples)


def concluded(samples: Iterable[Sample], search: Search[T]) -> T:
    """What a search says of stored samples, complete or not.

    :param search: a fresh generator, which this consumes
    """
    try:
        next(search)
        for sample in samples:
            search.send(sample)
        search.throw(OutOfTimeError())
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("the search did not end when its time was over")
