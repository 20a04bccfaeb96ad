"""Estimates the GPU memory of an assignment of layers, and learns from every dry run. It only proposes candidates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

from llamarig.declare.placement import Layers
from llamarig.placement.candidate import Prediction
from llamarig.placement.model_layers import LayerWeights

_UNMEASURED_BUFFERS_MIB = 1024.0
"""Assumed for compute buffers until the first dry run; a rough value is enough."""


@dataclass(frozen=True)
class Assignment:
    """Layers ``bounds[i]`` to ``bounds[i + 1]`` are on GPU i, the first ``whole[i]`` of them with their experts.

    Layers before ``bounds[0]`` are entirely in RAM.
    """

    bounds: tuple[int, ...]
    whole: tuple[int, ...]

    @property
    def last(self) -> int:
        """Index of the GPU that holds the output: the last one with a layer, or the first if none has any."""
        return max((index for index, (start, end) in enumerate(pairwise(self.bounds)) if end > start), default=0)

    @property
    def is_everything(self) -> bool:
        """Whether every layer of the model is on a GPU with its experts."""
        return self.bounds[0] == 0 and sum(self.whole) == self.bounds[-1]

    def layers(self, nextn: int) -> Layers:
        """Convert to a placement.

        :param nextn: number of the model's multi-token prediction layers, which are placed with the output
        """
        split = [end - start for start, end in pairwise(self.bounds)]
        split[self.last] += nextn + 1
        return Layers(gpu=self.whole, split=tuple(split), in_ram=self.bounds[0], nextn=nextn)


class Estimate:
    """MiB that each GPU would need. The part that no header tells (compute buffers) comes from the most similar dry
    run.

    For a GPU that no dry run has used yet the estimate is the lowest possible, so that the GPU is tried.
    """

    def __init__(self, weights: LayerWeights) -> None:
        self.weights = weights
        self._dense = [0.0, *accumulate(weights.dense)]
        self._experts = [0.0, *accumulate(weights.experts_mib(layer) for layer in range(weights.layers))]
        self._context = [0.0] * (weights.layers + 1)
        # Kept separately for assignments with everything on GPUs: without an override llama.cpp computes prompts on
        # several GPUs at once, which multiplies their buffers (pipeline parallelism, src/llama-context.cpp, pinned
        # commit).
        self._residual: dict[bool, dict[tuple[int, ...], float]] = {False: {}, True: {}}

    def need(self, gpu: int, start: int, end: int, whole: int, *, output: bool, everything: bool = False) -> float:
        """MiB on one GPU that holds these layers; 0 for one that holds nothing.

        :param everything: no layer of the model has experts in RAM
        """
        if start == end and not output:
            return 0.0
        known = self._known(start, end, whole, output=output)
        residual = self._residual[everything] or self._residual[not everything]
        # From the most to the least similar measurement: this very share, these layers, this GPU.
        for key in ((gpu, start, end, whole), (gpu, start, end), (gpu,)):
            if key in residual:
                return known + residual[key]
        return known if residual else known + _UNMEASURED_BUFFERS_MIB

    def learn(self, assignment: Assignment, prediction: Prediction) -> None:
        """Update the estimate with the result of a dry run."""
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
            + self._experts[start + whole]
            - self._experts[start]
            + (self.weights.output if output else 0.0)
        )
