"""A guess at what any assignment of layers would take, made better by every dry run; it proposes, it never decides."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

from tasks.planning.plans.candidate import Prediction
from tasks.planning.plans.weights import Weights
from tasks.spec.placement import Layers

_BUFFERS_MIB = 1024.0
"""What is guessed for compute buffers before the first dry run, which only has to come near."""


@dataclass(frozen=True)
class Assignment:
    """Layers ``bounds[i]`` to ``bounds[i + 1]`` on GPU i, the first ``whole[i]`` of them with their experts.

    Layers before ``bounds[0]`` are wholly in RAM.
    """

    bounds: tuple[int, ...]
    whole: tuple[int, ...]

    @property
    def last(self) -> int:
        """The GPU that holds the output: the last one with a layer, or the first where none has any."""
        return max((index for index, (start, end) in enumerate(pairwise(self.bounds)) if end > start), default=0)

    @property
    def is_everything(self) -> bool:
        """Whether every layer of the model is whole on a GPU."""
        return self.bounds[0] == 0 and sum(self.whole) == self.bounds[-1]

    def layers(self, nextn: int) -> Layers:
        """The same as a placement.

        :param nextn: layers of multi-token prediction the model has; their positions are with the output's
        """
        split = [end - start for start, end in pairwise(self.bounds)]
        split[self.last] += nextn + 1
        return Layers(gpu=self.whole, split=tuple(split), in_ram=self.bounds[0], nextn=nextn)


class Estimate:
    """MiB each GPU would need. What no header tells (compute buffers) is taken from the nearest dry run.

    Of a GPU that no dry run has touched yet, the most is hoped for, so that it is tried.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self._dense = [0.0, *accumulate(weights.dense)]
        self._experts = [0.0, *accumulate(weights.experts_mib(layer) for layer in range(weights.layers))]
        self._context = [0.0] * (weights.layers + 1)
        # Apart for assignments with everything on GPUs: without an override llama.cpp computes prompts on several GPUs
        # at once, which multiplies their buffers (pipeline parallelism, src/llama-context.cpp, pinned commit).
        self._residual: dict[bool, dict[tuple[int, ...], float]] = {False: {}, True: {}}

    def need(self, gpu: int, start: int, end: int, whole: int, *, output: bool, everything: bool = False) -> float:
        """MiB on one GPU that holds these layers; 0 for one that holds nothing.

        :param everything: no layer of the model has experts in RAM
        """
        if start == end and not output:
            return 0.0
        known = self._known(start, end, whole, output=output)
        residual = self._residual[everything] or self._residual[not everything]
        # The most alike of what was measured: this very share, these layers, this GPU.
        for key in ((gpu, start, end, whole), (gpu, start, end), (gpu,)):
            if key in residual:
                return known + residual[key]
        return known if residual else known + _BUFFERS_MIB

    def experts_between(self, start: int, end: int) -> float:
        """MiB of the experts of these layers."""
        return self._experts[end] - self._experts[start]

    def learn(self, assignment: Assignment, prediction: Prediction) -> None:
        """Take in what a dry run said."""
        if prediction.layer_context:
            sizes = (prediction.layer_context.get(layer, 0.0) for layer in range(self.weights.layers))
            self._context = [0.0, *accumulate(sizes)]
        elif not any(self._context):
            placed = assignment.bounds[-1] - assignment.bounds[0]
            each = sum(gpu.context_mib for gpu in prediction.gpus) / max(1, placed)
            self._context = [each * layer for layer in range(self.weights.layers + 1)]
        residual = self._residual[assignment.is_everything]
        for gpu, (start, end) in enumerate(pairwise(assignment.bounds)):
            output = gpu == assignment.last
            if start == end and not output:
                continue
            known = self._known(start, end, assignment.whole[gpu], output=output)
            for key in ((gpu, start, end, assignment.whole[gpu]), (gpu, start, end), (gpu,)):
                residual[key] = prediction.gpus[gpu].total_mib - known

    def _known(self, start: int, end: int, whole: int, *, output: bool) -> float:
        return (
            self._dense[end]
            - self._dense[start]
            + self._context[end]
            - self._context[start]
            + self.experts_between(start, start + whole)
            + (self.weights.output if output else 0.0)
        )
