"""The best assignment of layers to GPUs that an estimate knows, by dynamic programming over the layer boundaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

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
    found = _best(estimate, budgets, first)
    if found is None or not found.is_everything:
        return found
    # Everything on GPUs takes other buffers than all but one layer.
    whole = _best(estimate, budgets, first, everything=True)
    if whole is not None or not estimate.weights.has_experts:
        return whole
    spared = (_best(estimate, budgets, first, spared=gpu) for gpu in range(len(budgets)))
    return max(
        (each for each in spared if each is not None), key=lambda each: (sum(each.whole), each.whole), default=None
    )


def _best(
    estimate: Estimate,
    budgets: Sequence[float],
    first: int,
    *,
    everything: bool = False,
    spared: int | None = None,
) -> Assignment | None:
    """``everything``: every layer has to be whole. ``spared``: the GPU of which one layer may not be."""
    layers = estimate.weights.layers
    parts: dict[int, _Part] = {first: _Part((0, (), 0.0), (first,))}
    for gpu, budget in enumerate(budgets):
        following: dict[int, _Part] = {}
        for start, part in parts.items():
            for end in range(start, layers + 1):
                # Everything placed: this GPU holds the output and the ones after it nothing.
                output = end == layers and (end > start or gpu == 0)
                most = end - start - (gpu == spared)
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


def least_over(estimate: Estimate, budgets: Sequence[float], first: int = 0) -> Assignment:
    """The assignment without any experts whose worst GPU is the least over its budget."""
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
    # A layer without experts is whole wherever it lies.
    return Assignment(bounds, (0,) * len(budgets) if estimate.weights.has_experts else counts)


def partials(estimate: Estimate, layer: int, slack: float) -> Iterator[tuple[Experts, ...]]:
    """Sets of some of a layer's expert tensors that fit into so many MiB, the largest first."""
    experts = estimate.weights.experts[layer]
    sets = [kinds for count in range(1, len(experts)) for kinds in combinations(sorted(experts), count)]
    fitting = [kinds for kinds in sets if sum(experts[kind] for kind in kinds) <= slack]
    yield from sorted(fitting, key=lambda kinds: -sum(experts[kind] for kind in kinds))


def _largest(estimate: Estimate, layer: int, slack: float) -> float:
    kinds = next(partials(estimate, layer, slack), ())
    return sum(estimate.weights.experts[layer][kind] for kind in kinds)


def _most_whole(
    estimate: Estimate, budget: float, gpu: int, layers: tuple[int, int], most: int, *, output: bool, everything: bool
) -> int | None:
    """How many of these layers fit with their experts, ``most`` at most; None where not even all it takes do."""
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
