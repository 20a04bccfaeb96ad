"""A stand-in for dry runs: a simple exact memory model, so that a search can be tried thousands of times a minute.

It is not llama.cpp's: what the release itself says decides on a box, and tests/box/test_plan.py asks that.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

from tasks.planning.placement import layers_with_experts_on_cpu, partial_layers
from tasks.planning.plans.candidate import Candidate, Prediction
from tasks.planning.plans.search import Found, Search, TooMuch
from tasks.planning.plans.weights import Weights
from tasks.spec.placement import Layers
from tasks.spec.plan_file import DeviceMemory


@dataclass(frozen=True)
class MemoryModel:
    """Whole MiB: ``context`` of each layer, ``compute`` of each GPU that holds something.

    ``staging`` is on the first GPU while any experts are in RAM; ``copies`` are on each of several GPUs while none are
    (pipeline parallelism); ``tells``: whether dry runs say what each layer's cache takes.
    """

    weights: Weights
    context: tuple[int, ...]
    compute: tuple[int, ...]
    staging: int = 0
    copies: int = 0
    tells: bool = True

    def predict(self, placement: Layers) -> Prediction:
        """What a dry run of the placement would say."""
        in_ram, partial = set(layers_with_experts_on_cpu(placement)), partial_layers(placement)
        last = max(gpu for gpu, share in enumerate(placement.split) if share)
        rows, start = [], placement.in_ram
        for gpu, count in enumerate(placement.room):
            mine = range(start, start + count)
            start += count
            model = sum(self.weights.dense[layer] for layer in mine) + (self.weights.output if gpu == last else 0)
            model += sum(
                size
                for layer in mine
                for kind, size in self.weights.experts[layer].items()
                if layer not in in_ram and kind in partial.get(layer, (kind,))
            )
            compute = self.compute[gpu] if mine or gpu == last else 0
            compute += self.staging if gpu == 0 and (in_ram or partial) else 0
            if len(placement.split) > 1 and not (in_ram or partial or placement.in_ram) and compute:
                compute += self.copies
            rows.append(
                DeviceMemory(
                    name=f"CUDA{gpu}",
                    model_mib=int(model),
                    context_mib=sum(self.context[layer] for layer in mine),
                    compute_mib=compute,
                )
            )
        host = DeviceMemory(name="Host", model_mib=0, context_mib=0, compute_mib=0)
        told = dict(enumerate(self.context)) if self.tells else {}
        return Prediction(tuple(rows), host, (0, 2 * len(in_ram | partial.keys()) + len(rows)), told)

    def most_whole(self, budgets: tuple[int, ...]) -> int | None:
        """The most whole layers of any placement that fits, every boundary and count tried; None where none fits."""
        layers, best = self.weights.layers, None
        for inner in product(range(layers + 1), repeat=len(budgets) - 1):
            bounds = (0, *inner, layers)
            if list(bounds) != sorted(bounds):
                continue
            last = max((gpu for gpu, (start, end) in enumerate(pairwise(bounds)) if end > start), default=0)
            found = [self._most(gpu, bounds, gpu == last, budgets[gpu]) for gpu in range(len(budgets))]
            counts = [count for count in found if count is not None]
            if len(counts) < len(found):
                continue
            total = sum(counts)
            if total == layers and len(budgets) > 1 and not self._all_fit(bounds, last, budgets):
                if not self.weights.has_experts:
                    continue
                total -= 1
            best = max(best or 0, total)
        return best

    def _all_fit(self, bounds: tuple[int, ...], last: int, budgets: tuple[int, ...]) -> bool:
        """With all there is on the GPUs, and the copies that takes."""
        spare = [budget - self.copies for budget in budgets]
        found = [self._most(gpu, bounds, gpu == last, spare[gpu]) for gpu in range(len(budgets))]
        return None not in found and sum(count for count in found if count is not None) == bounds[-1]

    def _most(self, gpu: int, bounds: tuple[int, ...], output: bool, budget: int) -> int | None:
        start, end = bounds[gpu], bounds[gpu + 1]
        if start == end and not output:
            return 0
        need = self.compute[gpu] + (self.weights.output if output else 0)
        need += sum(self.weights.dense[layer] + self.context[layer] for layer in range(start, end))
        if need > budget:
            return None
        for whole, layer in enumerate(range(start, end)):
            need += self.weights.experts_mib(layer)
            if need > budget:
                return whole
        return end - start


@dataclass(frozen=True)
class Result:
    """What a search came to, and every candidate it asked for."""

    outcome: Found | TooMuch
    asked: list[Candidate]


def run(search: Search, model: MemoryModel) -> Result:
    """Answer a search from the model until it ends."""
    asked = []
    try:
        candidate = next(search)
        while True:
            asked.append(candidate)
            candidate = search.send(model.predict(candidate.placement))
    except StopIteration as end:
        return Result(end.value, asked)
