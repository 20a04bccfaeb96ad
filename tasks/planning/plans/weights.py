"""What each layer of a model weighs, from its header: the first guess of a search, which dry runs then decide."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from tasks.planning.coverage import layer_counts, layer_of
from tasks.planning.gguf_header import Header
from tasks.spec.placement import Experts

MIB = 1 << 20
EXPERTS = re.compile(r"ffn_(up|down|gate|gate_up)_(?:ch|)exps")
"""As the generated --override-tensor rule matches them, biases and scales included."""


@dataclass(frozen=True)
class Weights:
    """MiB: of each layer without its experts, of each layer's expert tensors by kind, and of the output layer.

    ``nextn``: how many layers of multi-token prediction come after these; no plan counts their weights.
    """

    dense: tuple[float, ...]
    experts: tuple[Mapping[Experts, float], ...]
    output: float
    nextn: int = 0

    @property
    def layers(self) -> int:
        """How many layers compute every token: what is placed whole, in parts or in RAM."""
        return len(self.dense)

    @property
    def positions(self) -> int:
        """What a split adds up to with nothing wholly in RAM: all layers, those of multi-token prediction too, and
        the output."""
        return self.layers + self.nextn + 1

    @property
    def has_experts(self) -> bool:
        """Whether there is something to keep in RAM beside whole layers."""
        return any(self.experts)

    def experts_mib(self, layer: int) -> float:
        """MiB of all expert tensors of a layer."""
        return sum(self.experts[layer].values())


def weights_of(header: Header) -> Weights:
    """What a header says its layers weigh. The token embedding stays in RAM and is not counted."""
    counts = layer_counts(header.tensors, header.metadata)
    layers = counts.trunk
    dense, output = [0.0] * layers, 0.0
    experts: list[dict[Experts, float]] = [{} for _ in range(layers)]
    for tensor in header.tensors:
        number, size = layer_of(tensor.name), tensor.size / MIB
        found = EXPERTS.search(tensor.name)
        if number is None:
            output += 0.0 if tensor.name == "token_embd.weight" else size
        elif number < layers and found:
            kind = cast(Experts, found[1])
            experts[number][kind] = experts[number].get(kind, 0.0) + size
        elif number < layers:
            dense[number] += size
    if not any(tensor.name == "output.weight" for tensor in header.tensors):
        # Tied: the output is a second copy of the embedding, on a GPU (src/llama-model.cpp, pinned commit).
        output += sum(tensor.size / MIB for tensor in header.tensors if tensor.name == "token_embd.weight")
    return Weights(tuple(dense), tuple(experts), output, counts.nextn)
