"""The best assignment of layers to GPUs that an estimate knows, by dynamic programming over the layer boundaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from tasks.planning.plans.estimate import Assignment, Estimate
from tasks.spec.placement import Experts


@dataclass(frozen=True)
class _Part:
    """Layers up to some bound, on the GPUs so far. Compared by what it is worth: whole layers in all, then on the
    earlier GPUs (the faster ones come first), then MiB of single expert tensors that would still fit."""

    worth: tuple[int, tuple[int, ...], float]
    bounds: tuple[int, ...]


def fill(estimate: Estimate, budgets: Sequence[float], first: int = 0) -> Assignment | None:
    """The most whole layers that fit by the estimate; None where not even their attention and KV cache do.

    :param budgets: MiB each GPU may take
    :param first: layers before this one stay in RAM
    """
    layers = estimate.weights.layers
    parts: dict[int, _Part] = {first: _Part((0, (), 0.0), (first,))}
    best: _Part | None = None
    for gpu, budget in enumerate(budgets):
        following: dict[int, _Part] = {}
        for start, part in parts.items():
            for end in range(start, layers + 1):
                # Everything placed: this GPU holds the output and the ones after it nothing.
                output = end == layers and (end > start or gpu == 0)
                whole = _most_whole(estimate, budget, gpu, start, end, output=output)
                if whole is None:
                    continue
                slack = budget - estimate.need(gpu, start, end, whole, output=output)
                more = _largest(estimate, start + whole, slack) if start + whole < end else 0.0
                total, wholes, partial = part.worth
                grown = _Part((total + whole, (*wholes, whole), partial + more), (*part.bounds, end))
                if end not in following or following[end].worth < grown.worth:
                    following[end] = grown
        parts = following
    best = parts.get(layers)
    return Assignment(best.bounds, best.worth[1]) if best else None


def least_over(estimate: Estimate, budgets: Sequence[float], first: int = 0) -> Assignment:
    """The assignment without any experts whose worst GPU is the least over its budget."""
    layers = estimate.weights.layers
    nothing = -float("inf")
    parts: dict[int, tuple[float, tuple[int, ...]]] = {first: (nothing, (first,))}
    for gpu, budget in enumerate(budgets):
        following: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start, (over, bounds) in parts.items():
            for end in range(start, layers + 1):
                output = end == layers and (end > start or gpu == 0)
                need = estimate.need(gpu, start, end, 0, output=output)
                worst = max(over, need - budget)
                if end not in following or worst < following[end][0]:
                    following[end] = (worst, (*bounds, end))
        parts = following
    return Assignment(parts[layers][1], (0,) * len(budgets))


def partials(estimate: Estimate, layer: int, slack: float) -> Iterator[tuple[Experts, ...]]:
    """Sets of some of a layer's expert tensors that fit into so many MiB, the largest first."""
    experts = estimate.weights.experts[layer]
    sets = [kinds for count in range(1, len(experts)) for kinds in combinations(sorted(experts), count)]
    fitting = [kinds for kinds in sets if sum(experts[kind] for kind in kinds) <= slack]
    yield from sorted(fitting, key=lambda kinds: -sum(experts[kind] for kind in kinds))


def _largest(estimate: Estimate, layer: int, slack: float) -> float:
    kinds = next(partials(estimate, layer, slack), ())
    return sum(estimate.weights.experts[layer][kind] for kind in kinds)


def _most_whole(estimate: Estimate, budget: float, gpu: int, start: int, end: int, *, output: bool) -> int | None:
    """How many of these layers fit with their experts; None where they do not fit without any."""
    if estimate.need(gpu, start, end, 0, output=output) > budget:
        return None
    low, high = 0, end - start
    while low < high:
        middle = (low + high + 1) // 2
        if estimate.need(gpu, start, end, middle, output=output) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
