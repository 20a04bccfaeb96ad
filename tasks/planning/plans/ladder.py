"""What to fall back to when a planned start lacks GPU memory: placements that take less, the smallest step first.

Made with the plan and carried to the box ready-rendered, because there, in the middle of a switch, nobody can plan: a
step is chosen by what was missing, and the step taken comes back as a proposal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from tasks.planning.plans.weights import Weights
from tasks.spec.placement import Layers
from tasks.spec.plan_file import Plan

MOST_STEPS = 3
"""Of one layer each. A plan that is off by more is true for another box, and has to be made again."""
MOST_BACK_OFFS = 3
"""Starts of a model in one switch, beside the first: each loads it anew."""


@dataclass(frozen=True)
class Rung:
    """A placement that takes less: MiB fewer on each GPU, rounded down, by its tensors' sizes."""

    placement: Layers
    frees_mib: tuple[int, ...]

    @property
    def what(self) -> str:
        """Whole layers on each GPU, in words."""
        return whole_layers(self.placement)


def whole_layers(placement: Layers) -> str:
    """For example ``12 + 6 whole layers and a part of another``."""
    said = f"{' + '.join(str(count) for count in placement.gpu)} whole layers"
    said += " and a part of another" if any(placement.partial) else ""
    return said + (f", the first {placement.in_ram} in RAM" if placement.in_ram else "")


def in_force(plan: Plan) -> Layers:
    """The placement that serves: what a start proposed last, until its owner plans anew."""
    return plan.proposals[-1].placement if plan.proposals else plan.placement


def fits_model(placement: Layers, weights: Weights) -> bool:
    """Whether its split is for as many layers as the model has.

    Plans made before layers of multi-token prediction were counted are not: llama.cpp serves them as they were
    measured, but on other GPUs than their numbers say.
    """
    return sum(placement.split) + placement.in_ram == weights.positions


def ladder(placement: Layers, weights: Weights) -> list[Rung]:
    """Up to ``MOST_STEPS`` steps down, in every distribution over the GPUs; what gives up least comes first.

    None for a placement whose layers are not where its numbers say: no step would free on the GPU it names.
    """
    rungs: list[Rung] = []
    if not fits_model(placement, weights):
        return rungs
    for steps in product(range(MOST_STEPS + 1), repeat=len(placement.gpu)):
        if not 0 < sum(steps) <= MOST_STEPS:
            continue
        rung = _down(placement, weights, steps)
        if rung is not None:
            rungs.append(rung)
    return sorted(rungs, key=lambda rung: (sum(rung.frees_mib), rung.frees_mib))


def _down(placement: Layers, weights: Weights, steps: Sequence[int]) -> Rung | None:
    """So many steps on each GPU: the part of a layer first, then whole layers. None where there are not so many."""
    below, frees = placement, []
    for gpu, count in enumerate(steps):
        freed = 0.0
        for _ in range(count):
            found = _fewer(below, weights, gpu)
            if found is None:
                return None
            below, mib = found
            freed += mib
        frees.append(int(freed))
    return Rung(below, tuple(frees))


def _fewer(placement: Layers, weights: Weights, gpu: int) -> tuple[Layers, float] | None:
    """One step on one GPU, and the MiB it frees there."""
    first = placement.in_ram + sum(placement.room[:gpu])
    whole = placement.gpu[gpu]
    if not weights.has_experts:
        return _one_into_ram(placement, weights, gpu, first)
    if placement.partial and placement.partial[gpu]:
        partial = (*placement.partial[:gpu], (), *placement.partial[gpu + 1 :])
        freed = sum(weights.experts[first + whole].get(kind, 0.0) for kind in placement.partial[gpu])
        return placement.model_copy(update={"partial": partial if any(partial) else ()}), freed
    if not whole:
        return None
    fewer = (*placement.gpu[:gpu], whole - 1, *placement.gpu[gpu + 1 :])
    return placement.model_copy(update={"gpu": fewer}), weights.experts_mib(first + whole - 1)


def _one_into_ram(placement: Layers, weights: Weights, gpu: int, first: int) -> tuple[Layers, float] | None:
    """A dense model has no experts to move: its first layer goes to RAM, and every GPU before this one shifts by it."""
    if placement.room[gpu] < 1 or placement.gpu[gpu] < 1 or placement.split[gpu] < 2:
        return None
    update = {
        "gpu": (*placement.gpu[:gpu], placement.gpu[gpu] - 1, *placement.gpu[gpu + 1 :]),
        "split": (*placement.split[:gpu], placement.split[gpu] - 1, *placement.split[gpu + 1 :]),
        "in_ram": placement.in_ram + 1,
    }
    return placement.model_copy(update=update), weights.dense[first]
