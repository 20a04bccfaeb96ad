"""A simple, exact memory model in place of dry runs, so that thousands of searches take a minute.

It differs from llama.cpp's own, which tests/box/test_plan.py uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

from llamarig.declare.placement import Layers
from llamarig.placement.candidate import Candidate, Prediction
from llamarig.placement.model_layers import LayerWeights
from llamarig.placement.search import DoesNotFit, Found, Search
from llamarig.records.plan_file import DeviceMemory
from llamarig.render.placement_arguments import layers_with_experts_on_cpu, partial_layers


@dataclass(frozen=True)
class MemoryModel:
    """All in MiB: ``context`` by layer, ``compute`` of each GPU that holds something.

    ``staging`` is on the first GPU while any experts are in RAM; ``copies`` are on each of several GPUs while none are
    (pipeline parallelism); ``tells``: whether dry runs print the cache size of each layer.
    """

    weights: LayerWeights
    context: tuple[int, ...]
    compute: tuple[int, ...]
    staging: int = 0
    copies: int = 0
    tells: bool = True

    def predict(self, placement: Layers) -> Prediction:
        """The prediction of a dry run of the placement."""
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
        layer_context = dict(enumerate(self.context)) if self.tells else {}
        return Prediction(tuple(rows), host, (0, 2 * len(in_ram | partial.keys()) + len(rows)), layer_context)

    def most_whole(self, budgets: tuple[int, ...]) -> int | None:
        """The maximum of whole layers that fit, by trying every boundary and count; None if no placement fits."""
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
        """Whether everything fits on the GPUs, with the copies that this needs."""
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
    """The result of a search, and every candidate that it measured."""

    outcome: Found | DoesNotFit
    measured: list[Candidate]


def run(search: Search, model: MemoryModel) -> Result:
    """Run a search with predictions of the model."""
    measured = []
    try:
        candidate, *_ = next(search)
        while True:
            measured.append(candidate)
            candidate, *_ = search.send(model.predict(candidate.placement))
    except StopIteration as end:
        return Result(end.value, measured)
