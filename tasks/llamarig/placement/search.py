"""The search for the best placement: a generator that yields candidates, is sent predictions, and returns the result.

It yields several where it knows which ones it will need next: the answer is of the first, the others may be measured
beside it.

Candidates are proposed from the header's tensor sizes and earlier measurements. A placement is only chosen if its own
dry run fits, and the next layer, which is not taken, is measured as well.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from llamarig.declare.placement import Experts, Layers
from llamarig.placement.best_assignment import best_assignment, expert_subsets, least_overfull
from llamarig.placement.candidate import Candidate, Prediction
from llamarig.placement.estimate import Assignment, Estimate
from llamarig.placement.model_layers import LayerWeights
from llamarig.records.plan_file import GivenUp, NextLayer

MAX_TRIES = 12
"""Assignments measured before the best one so far is taken. An estimate is accurate to a few MiB after one or two."""


@dataclass(frozen=True)
class Found:
    """The best placement that fits, its memory, the memory that the next layer would need, and what was lowered."""

    candidate: Candidate
    prediction: Prediction
    next_layer: tuple[NextLayer, ...] = ()
    given_up: tuple[GivenUp, ...] = ()
    estimate: Estimate | None = None
    """What the search has learned, to judge other budgets by."""


@dataclass(frozen=True)
class DoesNotFit:
    """Not even attention, KV cache and buffers fit; holds the closest placement that was measured."""

    candidate: Candidate
    prediction: Prediction


Search = Generator[tuple[Candidate, ...], Prediction, Found | DoesNotFit]


def search(
    weights: LayerWeights, budgets: Sequence[int], settings: Candidate, first: int = 0, estimate: Estimate | None = None
) -> Search:
    """Fill the GPUs with whole layers in device order, then with single expert tensors of one more layer each.

    :param budgets: MiB each GPU may take: free memory less its margin
    :param settings: context, ubatch and cache types; its placement is ignored
    :param first: layers before this one stay entirely in RAM
    :param estimate: of an earlier search with the same settings, as a start
    """
    run = _SearchRun(estimate or Estimate(weights), tuple(budgets), settings, first)
    best = yield from run.most_whole()
    if isinstance(best, DoesNotFit):
        return best
    best = yield from run.one_more(best)
    final, prediction = yield from run.with_partials(best)
    return Found(replace(settings, placement=final), prediction, run.next_layers(best), estimate=run.estimate)


class _SearchRun:
    """The state of one search: measurements, and the estimate learned from them."""

    def __init__(self, estimate: Estimate, budgets: tuple[int, ...], settings: Candidate, first: int) -> None:
        self.estimate = estimate
        self.budgets = budgets
        self.settings = settings
        self.first = first
        self.measured: dict[Assignment, Prediction] = {}

    def measure(
        self, assignment: Assignment, beside: Iterable[Assignment] = ()
    ) -> Generator[tuple[Candidate, ...], Prediction, Prediction]:
        """Yield a candidate for a dry run, unless it was measured already.

        :param beside: those that will most likely be measured next
        """
        if assignment not in self.measured:
            each = dict.fromkeys((assignment, *(one for one in beside if one not in self.measured)))
            self.measured[assignment] = yield tuple(
                replace(self.settings, placement=self.placement(one)) for one in each
            )
            self.estimate.learn(assignment, self.measured[assignment])
        return self.measured[assignment]

    def placement(self, assignment: Assignment) -> Layers:
        return assignment.layers(self.estimate.weights.nextn)

    def fits(self, prediction: Prediction) -> bool:
        return all(need <= budget for need, budget in zip(prediction.totals, self.budgets, strict=True))

    def most_whole(self) -> Generator[tuple[Candidate, ...], Prediction, Assignment | DoesNotFit]:
        """The assignment with the most whole layers that fits by its dry run."""
        yield from self.measure(least_overfull(self.estimate, self.budgets, self.first))
        for _ in range(MAX_TRIES):
            wanted = best_assignment(self.estimate, self.budgets, self.first)
            if wanted is None:
                wanted = least_overfull(self.estimate, self.budgets, self.first)
            if wanted in self.measured:
                break
            yield from self.measure(wanted)
        fitting = [assignment for assignment, prediction in self.measured.items() if self.fits(prediction)]
        if fitting:
            return max(fitting, key=lambda each: (sum(each.whole), each.whole, each == wanted))
        least = least_overfull(self.estimate, self.budgets, self.first)
        prediction = yield from self.measure(least)
        if self.fits(prediction):
            return least
        return DoesNotFit(replace(self.settings, placement=self.placement(least)), prediction)

    def one_more(self, best: Assignment) -> Generator[tuple[Candidate, ...], Prediction, Assignment]:
        """Measure one more layer on each GPU; if it fits after all, take it and continue."""
        for _ in range(MAX_TRIES):
            tries = [more for gpu in range(len(self.budgets)) if (more := _one_more(best, gpu)) is not None]
            for number, more in enumerate(tries):
                prediction = yield from self.measure(more, tries[number + 1 :])
                if self.fits(prediction):
                    best = more
                    break
            else:
                return best
        return best

    def with_partials(
        self, best: Assignment
    ) -> Generator[tuple[Candidate, ...], Prediction, tuple[Layers, Prediction]]:
        """Add single expert tensors of each GPU's next layer, if they fit and cost no further graph split."""
        prediction = self.measured[best]
        splits = prediction.splits[1] if prediction.splits else None
        layers = self.placement(best)
        kept: list[tuple[Experts, ...]] = [()] * len(self.budgets)
        for gpu, (start, end) in enumerate(pairwise(best.bounds)):
            layer = start + best.whole[gpu]
            if layer >= end:
                continue
            slack = self.budgets[gpu] - prediction.totals[gpu]
            for tries, kinds in enumerate(expert_subsets(self.estimate, layer, slack)):
                wanted = layers.model_copy(update={"partial": (*kept[:gpu], kinds, *kept[gpu + 1 :])})
                tried = yield (replace(self.settings, placement=wanted),)
                if self.fits(tried) and (splits is None or (tried.splits or (0, 0))[1] <= splits):
                    kept[gpu], prediction = kinds, tried
                    break
                if tries == 1:
                    break
        if any(kept):
            layers = layers.model_copy(update={"partial": tuple(kept)})
        return layers, prediction

    def next_layers(self, best: Assignment) -> tuple[NextLayer, ...]:
        """Memory that one more whole layer on each GPU would need, for GPUs with a layer in RAM."""
        found = []
        for gpu, budget in enumerate(self.budgets):
            more = _one_more(best, gpu)
            if more is None or more not in self.measured:
                continue
            rows = self.measured[more].gpus
            row = rows[gpu]
            if row.total_mib <= budget:
                # Once no experts are in RAM, llama.cpp's buffers grow, perhaps on another GPU.
                pairs = zip(rows, self.budgets, strict=True)
                row, budget = max(pairs, key=lambda pair: pair[0].total_mib - pair[1])
            found.append(NextLayer(name=row.name, needs_mib=row.total_mib, has_mib=budget, measured=True))
        return tuple(dict.fromkeys(found))


def _one_more(assignment: Assignment, gpu: int) -> Assignment | None:
    """The assignment with one more whole layer on a GPU: one of its own, or else the first one of the next GPU."""
    bounds, whole = list(assignment.bounds), list(assignment.whole)
    if whole[gpu] == bounds[gpu + 1] - bounds[gpu]:
        following = gpu + 1
        if following == len(whole) or bounds[following] == bounds[following + 1]:
            return None
        if whole[following] == bounds[following + 1] - bounds[following]:
            return None  # every layer of the next GPU is whole already
        bounds[following] += 1
    whole[gpu] += 1
    return Assignment(tuple(bounds), tuple(whole))
