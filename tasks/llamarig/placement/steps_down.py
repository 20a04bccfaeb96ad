"""Placements to fall back to if a planned start lacks GPU memory, the smallest step first.

They are rendered with the plan and copied to the box, because nothing can be planned there in the middle of a switch.
The box chooses a step by the missing memory, and the step taken is recorded as a proposal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import get_args

from llamarig.declare.placement import Experts, Layers
from llamarig.placement.model_layers import LayerWeights
from llamarig.records.plan_file import Plan

MAX_STEPS = 3
"""Steps of one layer each. A plan that is off by more was made for other conditions, and has to be made again."""
MAX_BACK_OFFS = 3
"""Further starts of a model in one switch; each one loads the model again."""


@dataclass(frozen=True)
class SmallerPlacement:
    """A smaller placement. ``frees_mib``: MiB freed on each GPU by tensor sizes, rounded down."""

    placement: Layers
    frees_mib: tuple[int, ...]

    @property
    def what(self) -> str:
        """The whole layers on each GPU, in words."""
        return whole_layers(self.placement)


def whole_layers(placement: Layers) -> str:
    """Describe a placement, for example ``12 + 6 whole layers and a part of another``."""
    text = f"{' + '.join(str(count) for count in placement.gpu)} whole layers"
    text += " and a part of another" if any(placement.partial) else ""
    return text + (f", the first {placement.in_ram} in RAM" if placement.in_ram else "")


def effective_placement(plan: Plan) -> Layers:
    """The placement that is served: the latest proposal of a start, until the model is planned again."""
    return plan.proposals[-1].placement if plan.proposals else plan.placement


def fits_model(placement: Layers, weights: LayerWeights) -> bool:
    """Whether the split counts as many layers as the model has.

    Plans made before multi-token prediction layers were counted do not: llama.cpp serves them as they were measured,
    but with layers on other GPUs than the plan says.
    """
    return sum(placement.split) + placement.in_ram == weights.positions


def steps_down(placement: Layers, weights: LayerWeights) -> list[SmallerPlacement]:
    """Up to ``MAX_STEPS`` steps down in every distribution over the GPUs, the smallest first.

    Empty for a placement that does not match the model: no step would free memory on the GPU that it names.
    """
    found: list[SmallerPlacement] = []
    if not fits_model(placement, weights):
        return found
    for steps in product(range(MAX_STEPS + 1), repeat=len(placement.gpu)):
        if not 0 < sum(steps) <= MAX_STEPS:
            continue
        step = _step_down(placement, weights, steps)
        if step is not None:
            found.append(step)
    return sorted(found, key=lambda step: (sum(step.frees_mib), step.frees_mib))


def is_step_down(smaller: Layers, placement: Layers) -> bool:
    """Whether a start by ``placement`` may fall back to ``smaller``, whatever the model's layers weigh."""
    layers = sum(placement.split) + placement.in_ram - placement.nextn - 1  # a split counts the output
    kinds: Mapping[Experts, float] = dict.fromkeys(get_args(Experts), 1.0)
    models = [LayerWeights((1.0,) * layers, (experts,) * layers, 1.0, placement.nextn) for experts in ({}, kinds)]
    return any(step.placement == smaller for weights in models for step in steps_down(placement, weights))


def _step_down(placement: Layers, weights: LayerWeights, steps: Sequence[int]) -> SmallerPlacement | None:
    """Take ``steps[gpu]`` steps on each GPU: the partial layer first, then whole layers; None if that is not
    possible."""
    smaller, frees = placement, []
    for gpu, count in enumerate(steps):
        freed = 0.0
        for _ in range(count):
            found = _one_step(smaller, weights, gpu)
            if found is None:
                return None
            smaller, mib = found
            freed += mib
        frees.append(int(freed))
    return SmallerPlacement(smaller, tuple(frees))


def _one_step(placement: Layers, weights: LayerWeights, gpu: int) -> tuple[Layers, float] | None:
    """One step on one GPU, and the MiB that it frees there."""
    first = placement.in_ram + sum(placement.room[:gpu])
    whole = placement.gpu[gpu]
    if not weights.has_experts:
        return _one_into_ram(placement, weights, gpu, first)
    if placement.partial and placement.partial[gpu]:
        partial = (*placement.partial[:gpu], (), *placement.partial[gpu + 1 :])
        freed = sum(weights.experts[first + whole].get(kind, 0.0) for kind in placement.partial[gpu])
        return placement.model_copy(update={"partial": partial if any(partial) else ()}), freed
    while whole and not weights.experts_mib(first + whole - 1):
        whole -= 1  # a layer without experts among others with them (leading dense layers, every second of Llama 4)
    if not whole:
        return None
    fewer = (*placement.gpu[:gpu], whole - 1, *placement.gpu[gpu + 1 :])
    return placement.model_copy(update={"gpu": fewer}), weights.experts_mib(first + whole - 1)


def _one_into_ram(placement: Layers, weights: LayerWeights, gpu: int, first: int) -> tuple[Layers, float] | None:
    """A dense model has no experts to move: its first layer goes to RAM, and the layers of every earlier GPU shift by
    one."""
    if placement.room[gpu] < 1 or placement.gpu[gpu] < 1 or placement.split[gpu] < 2:
        return None
    update = {
        "gpu": (*placement.gpu[:gpu], placement.gpu[gpu] - 1, *placement.gpu[gpu + 1 :]),
        "split": (*placement.split[:gpu], placement.split[gpu] - 1, *placement.split[gpu + 1 :]),
        "in_ram": placement.in_ram + 1,
    }
    return placement.model_copy(update=update), weights.dense[first]
