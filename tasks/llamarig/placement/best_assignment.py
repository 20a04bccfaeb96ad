"""Finds the best assignment of layers to GPUs by an estimate: dynamic programming over the layer boundaries."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any, TypeVar

from llamarig.declare.placement import Experts
from llamarig.placement.estimate import Assignment, Estimate

_Worth = tuple[int, tuple[int, ...], float]
"""Whole layers in all; then whole layers on the earlier, faster GPUs; then MiB of single experts that would still
fit. The greater, the better."""
W = TypeVar("W", bound=Any)


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

    def grow(worth: _Worth, gpu: int, start: int, end: int, output: bool) -> _Worth | None:
        budget, most = budgets[gpu], end - start - (gpu == incomplete_on)
        whole = _most_whole(estimate, budget, gpu, (start, end), most, output=output, everything=everything)
        if whole is None:
            return None
        slack = budget - estimate.need(gpu, start, end, whole, output=output, everything=everything)
        more = _largest(estimate, start + whole, slack) if start + whole < end else 0.0
        return worth[0] + whole, (*worth[1], whole), worth[2] + more

    nothing: _Worth = (0, (), 0.0)
    best = _best_bounds(estimate.weights.layers, len(budgets), first, nothing, grow)
    return Assignment(best[1], best[0][1]) if best else None


def _best_bounds(
    layers: int, gpus: int, first: int, worth: W, grow: Callable[[W, int, int, int, bool], W | None]
) -> tuple[W, tuple[int, ...]] | None:
    """The layer boundaries of greatest worth, and that worth; None if there are none.

    :param grow: the worth of earlier GPUs, a GPU, its first layer, the layer after its last, whether it holds the
        output -> their worth together; None if that is not possible
    """
    parts: dict[int, tuple[W, tuple[int, ...]]] = {first: (worth, (first,))}
    for gpu in range(gpus):
        following: dict[int, tuple[W, tuple[int, ...]]] = {}
        for start, (before, bounds) in parts.items():
            for end in range(start, layers + 1):
                # With all layers placed, this GPU holds the output, and the ones after it nothing.
                grown = grow(before, gpu, start, end, end == layers and (end > start or gpu == 0))
                if grown is not None and (end not in following or following[end][0] < grown):
                    following[end] = grown, (*bounds, end)
        parts = following
    return parts.get(layers)


def least_overfull(estimate: Estimate, budgets: Sequence[float], first: int = 0) -> Assignment:
    """The assignment without any experts that exceeds its worst GPU's budget the least."""
    everything = first == 0 and not estimate.weights.has_experts

    def grow(room: float, gpu: int, start: int, end: int, output: bool) -> float:
        return min(room, budgets[gpu] - estimate.need(gpu, start, end, 0, output=output, everything=everything))

    found = _best_bounds(estimate.weights.layers, len(budgets), first, float("inf"), grow)
    assert found is not None
    counts = tuple(end - start for start, end in pairwise(found[1]))
    # A layer of a dense model is whole on any GPU.
    return Assignment(found[1], (0,) * len(budgets) if estimate.weights.has_experts else counts)


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
    if everything:
        return most
    return bisect_right(
        range(1, most + 1), budget, key=lambda whole: estimate.need(gpu, start, end, whole, output=output)
    )
