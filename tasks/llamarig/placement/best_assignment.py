"""Finds the best assignment of layers to GPUs by an estimate: dynamic programming over the layer boundaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from llamarig.declare.placement import Experts
from llamarig.placement.estimate import Assignment, Estimate


@dataclass(frozen=True)
class _Part:
    """Layers up to some bound, assigned to the GPUs so far.

    ``worth`` compares them: whole layers in all; then whole layers on the earlier, faster GPUs; then MiB of single
    expert tensors that would still fit.
    """

    worth: tuple[int, tuple[int, ...], float]
    bounds: tuple[int, ...]


def best_assignment(estimate: Estimate, budgets: Sequence[float], first: int = 0) -> Assignment | None:
    """The assignment with the most whole layers; None if not even attention and KV cache fit.

    :param budgets: MiB that each GPU may take
    :param first: layers before this one stay in RAM
    """
    found = _best(estimate, budgets, first)
    if found is None or not found.is_everything:
        return found
    # With everything on GPUs the buffers are different from those with one layer less.
    complete = _best(estimate, budgets, first, everything=True)
    if complete is not None or not estimate.weights.has_experts:
        return complete
    incomplete = (_best(estimate, budgets, first, incomplete_on=gpu) for gpu in range(len(budgets)))
    return max(
        (each for each in incomplete if each is not None), key=lambda each: (sum(each.whole), each.whole), default=None
    )


def _best(
    estimate: Estimate,
    budgets: Sequence[float],
    first: int,
    *,
    everything: bool = False,
    incomplete_on: int | None = None,
) -> Assignment | None:
    """Search all boundaries.

    :param everything: every layer has to be whole
    :param incomplete_on: the GPU on which one layer may not be whole
    """
    layers = estimate.weights.layers
    parts: dict[int, _Part] = {first: _Part((0, (), 0.0), (first,))}
    for gpu, budget in enumerate(budgets):
        following: dict[int, _Part] = {}
        for start, part in parts.items():
            for end in range(start, layers + 1):
                # With all layers placed, this GPU holds the output, and the ones after it nothing.
                output = end == layers and (end > start or gpu == 0)
                most = end - start - (gpu == incomplete_on)
                whole = _most_whole(estimate, budget, gpu, (start, end), most, output=output, everything=everything)
                if whole is None:
                    continue
                slack = budget - estimate.need(gpu, start, end, whole, output=output, everything=everything)
                more = _largest(estimate, start + whole, slack) if start + whole < end else 0.0
                total, wholes, partial = part.worth
                grown = _Part((total + whole, (*wholes, whole), partial + more), (*part.bounds, end))
                if end not in following or following[end].worth < grown.worth:
                    following[end] = grown
        parts = following
    best = parts.get(layers)
    return Assignment(best.bounds, best.worth[1]) if best else None


def least_overfull(estimate: Estimate, budgets: Sequence[float], first: int = 0) -> Assignment:
    """The assignment without any experts that exceeds its worst GPU's budget the least."""
    layers = estimate.weights.layers
    everything = first == 0 and not estimate.weights.has_experts
    nothing = -float("inf")
    parts: dict[int, tuple[float, tuple[int, ...]]] = {first: (nothing, (first,))}
    for gpu, budget in enumerate(budgets):
        following: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start, (over, bounds) in parts.items():
            for end in range(start, layers + 1):
                output = end == layers and (end > start or gpu == 0)
                need = estimate.need(gpu, start, end, 0, output=output, everything=everything)
                worst = max(over, need - budget)
                if end not in following or worst < following[end][0]:
                    following[end] = (worst, (*bounds, end))
        parts = following
    bounds = parts[layers][1]
    counts = tuple(end - start for start, end in pairwise(bounds))
    # A layer of a dense model is whole on any GPU.
    return Assignment(bounds, (0,) * len(budgets) if estimate.weights.has_experts else counts)


def expert_subsets(estimate: Estimate, layer: int, slack: float) -> Iterator[tuple[Experts, ...]]:
    """Subsets of a layer's expert tensors that fit into ``slack`` MiB, the largest first."""
    experts = estimate.weights.experts[layer]
    sets = [kinds for count in range(1, len(experts)) for kinds in combinations(sorted(experts), count)]
    fitting = [kinds for kinds in sets if sum(experts[kind] for kind in kinds) <= slack]
    yield from sorted(fitting, key=lambda kinds: -sum(experts[kind] for kind in kinds))


def _largest(estimate: Estimate, layer: int, slack: float) -> float:
    kinds = next(expert_subsets(estimate, layer, slack), ())
    return sum(estimate.weights.experts[layer][kind] for kind in kinds)


def _most_whole(
    estimate: Estimate, budget: float, gpu: int, layers: tuple[int, int], most: int, *, output: bool, everything: bool
) -> int | None:
    """How many of these layers fit with their experts, at most ``most``; None if the minimum does not fit."""
    start, end = layers
    low = most if everything else 0
    if most < 0 or estimate.need(gpu, start, end, low, output=output, everything=everything) > budget:
        return None
    high = most
    while low < high:
        middle = (low + high + 1) // 2
        if estimate.need(gpu, start, end, middle, output=output) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
