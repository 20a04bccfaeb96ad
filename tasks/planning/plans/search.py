"""The search: yields placements to be measured, is sent what each would take, returns the best that fits.

A header's tensor sizes and what was measured so far propose; a placement is only ever chosen when its own dry run fits,
and the layer that was not taken is measured too.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tasks.planning.plans.candidate import Candidate, Prediction
from tasks.planning.plans.estimate import Assignment, Estimate
from tasks.planning.plans.fill import fill, least_over, partials
from tasks.planning.plans.weights import Weights
from tasks.spec.placement import Experts, Layers
from tasks.spec.plan_file import NextLayer

MOST_TRIES = 12
"""Assignments measured before the best so far is taken. An estimate is within a few MiB after one or two."""


@dataclass(frozen=True)
class Found:
    """The best placement that fits, what it takes, and what the next layer would need."""

    candidate: Candidate
    prediction: Prediction
    next_layer: tuple[NextLayer, ...] = ()


@dataclass(frozen=True)
class TooMuch:
    """Not even attention, KV cache and buffers fit: the closest that was measured."""

    candidate: Candidate
    prediction: Prediction


Search = Generator[Candidate, Prediction, Found | TooMuch]


def search(
    weights: Weights, budgets: Sequence[int], settings: Candidate, first: int = 0, estimate: Estimate | None = None
) -> Search:
    """Fill the GPUs with whole layers in device order, then with single expert tensors of one more layer each.

    :param budgets: MiB each GPU may take: free, less its margin
    :param settings: context and cache types; its placement is not looked at
    :param first: layers before this one stay wholly in RAM
    :param estimate: of an earlier search with the same settings, to begin with
    """
    run = _Run(estimate or Estimate(weights), tuple(budgets), settings, first)
    best = yield from run.most_whole()
    if best is None:
        assert run.closest is not None
        return TooMuch(*run.closest)
    best = yield from run.one_more(best)
    final, prediction = yield from run.with_partials(best)
    return Found(replace(settings, placement=final), prediction, run.next_layers(best))


class _Run:
    """One search: what was measured, and the estimate made from it."""

    def __init__(self, estimate: Estimate, budgets: tuple[int, ...], settings: Candidate, first: int) -> None:
        self.estimate = estimate
        self.budgets = budgets
        self.settings = settings
        self.first = first
        self.measured: dict[Assignment, Prediction] = {}
        self.closest: tuple[Candidate, Prediction] | None = None

    def measure(self, assignment: Assignment) -> Generator[Candidate, Prediction, Prediction]:
        """Ask for a dry run, unless it was made already."""
        if assignment not in self.measured:
            candidate = replace(self.settings, placement=self.placement(assignment))
            self.measured[assignment] = yield candidate
            self.estimate.learn(assignment, self.measured[assignment])
        return self.measured[assignment]

    def placement(self, assignment: Assignment) -> Layers:
        return assignment.layers(self.estimate.weights.nextn)

    def fits(self, prediction: Prediction) -> bool:
        return all(need <= budget for need, budget in zip(prediction.totals, self.budgets, strict=True))

    def most_whole(self) -> Generator[Candidate, Prediction, Assignment | None]:
        """The assignment with the most whole layers, measured to fit; None where nothing fits."""
        best: Assignment | None = None
        yield from self.measure(least_over(self.estimate, self.budgets, self.first))
        for _ in range(MOST_TRIES):
            wanted = fill(self.estimate, self.budgets, self.first)
            if wanted is None:
                wanted = least_over(self.estimate, self.budgets, self.first)
            if wanted in self.measured:
                if self.fits(self.measured[wanted]):
                    best = wanted
                break
            prediction = yield from self.measure(wanted)
            if self.fits(prediction) and (best is None or _worth(best) < _worth(wanted)):
                best = wanted
        if best is None:
            best = self._best_measured()
        if best is None:
            least = least_over(self.estimate, self.budgets, self.first)
            prediction = yield from self.measure(least)
            if self.fits(prediction):
                return least
            self.closest = (replace(self.settings, placement=self.placement(least)), prediction)
        return best

    def _best_measured(self) -> Assignment | None:
        fitting = [assignment for assignment, prediction in self.measured.items() if self.fits(prediction)]
        return max(fitting, key=_worth, default=None)

    def one_more(self, best: Assignment) -> Generator[Candidate, Prediction, Assignment]:
        """Measure a layer more on each GPU; where one fits after all, it is taken and the measuring goes on."""
        for _ in range(MOST_TRIES):
            for gpu in range(len(self.budgets)):
                more = _one_more(best, gpu)
                if more is None:
                    continue
                prediction = yield from self.measure(more)
                if self.fits(prediction):
                    best = more
                    break
            else:
                return best
        return best

    def with_partials(self, best: Assignment) -> Generator[Candidate, Prediction, tuple[Layers, Prediction]]:
        """Single expert tensors of each GPU's next layer, where they fit and cost no further graph split."""
        prediction = self.measured[best]
        splits = prediction.splits[1] if prediction.splits else None
        layers = self.placement(best)
        kept: list[tuple[Experts, ...]] = [()] * len(self.budgets)
        for gpu, (start, end) in enumerate(pairwise(best.bounds)):
            layer = start + best.whole[gpu]
            if layer >= end:
                continue
            slack = self.budgets[gpu] - prediction.totals[gpu]
            for tries, kinds in enumerate(partials(self.estimate, layer, slack)):
                wanted = layers.model_copy(update={"partial": (*kept[:gpu], kinds, *kept[gpu + 1 :])})
                tried = yield replace(self.settings, placement=wanted)
                if self.fits(tried) and (splits is None or (tried.splits or (0, 0))[1] <= splits):
                    kept[gpu], prediction = kinds, tried
                    break
                if tries == 1:
                    break
        if any(kept):
            layers = layers.model_copy(update={"partial": tuple(kept)})
        return layers, prediction

    def next_layers(self, best: Assignment) -> tuple[NextLayer, ...]:
        """What a whole layer more on each GPU would need, for those that have one in RAM."""
        found = []
        for gpu, budget in enumerate(self.budgets):
            more = _one_more(best, gpu)
            if more is None or more not in self.measured:
                continue
            rows = self.measured[more].gpus
            row = rows[gpu]
            if row.total_mib <= budget:
                # With the last experts out of RAM llama.cpp's buffers grow, perhaps on another GPU.
                pairs = zip(rows, self.budgets, strict=True)
                row, budget = max(pairs, key=lambda pair: pair[0].total_mib - pair[1])
            found.append(NextLayer(name=row.name, needs_mib=row.total_mib, has_mib=budget, measured=True))
        return tuple(dict.fromkeys(found))


def _worth(assignment: Assignment) -> tuple[int, tuple[int, ...]]:
    return sum(assignment.whole), assignment.whole


def _one_more(assignment: Assignment, gpu: int) -> Assignment | None:
    """The same with one whole layer more on a GPU: of its own layers, or else the first one of the next GPU's."""
    bounds, whole = list(assignment.bounds), list(assignment.whole)
    if whole[gpu] == bounds[gpu + 1] - bounds[gpu]:
        following = gpu + 1
        if following == len(whole) or bounds[following] == bounds[following + 1]:
            return None
        if whole[following] == bounds[following + 1] - bounds[following]:
            return None  # every layer of that one is whole already
        bounds[following] += 1
    whole[gpu] += 1
    return Assignment(tuple(bounds), tuple(whole))
