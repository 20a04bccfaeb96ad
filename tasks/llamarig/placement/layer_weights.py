"""The size of each layer's weights, from the model's header. A search starts from it, and dry runs correct it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from llamarig.declare.placement import Experts
from llamarig.placement.model_layers import layer_counts, layer_of
from llamarig.remote.shared.gguf_header import Header

MIB = 1 << 20
EXPERTS = re.compile(r"ffn_(up|down|gate|gate_up)_(?:ch|)exps")
"""The same names as in the generated --override-tensor rule; biases and scales match, too."""


@dataclass(frozen=True)
class LayerWeights:
    """Sizes in MiB: of each layer without experts, of each layer's expert tensors by kind, and of the output layer.

    ``nextn``: number of multi-token prediction layers after them; no plan counts their weights.
    """

    dense: tuple[float, ...]
    experts: tuple[Mapping[Experts, float], ...]
    output: float
    nextn: int = 0

    @property
    def layers(self) -> int:
        """Number of layers that compute every token, and that are placed whole, in parts or in RAM."""
        return len(self.dense)

    @property
    def positions(self) -> int:
        """What a split adds up to if no layer is in RAM: all layers, with those of multi-token prediction, and the
        output."""
        return self.layers + self.nextn + 1

    @property
    def has_experts(self) -> bool:
        """Whether the model has experts, which can stay in RAM while the rest of their layer is on a GPU."""
        return any(self.experts)

    def experts_mib(self, layer: int) -> float:
        """MiB of all expert tensors of a layer."""
        return sum(self.experts[layer].values())


def layer_weights(header: Header) -> LayerWeights:
    """Compute the sizes from a header. The token embedding stays in RAM and is not counted."""
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
        # Tied embeddings: the output is a second copy of the embedding, on a GPU (src/llama-model.cpp, pinned commit).
        output += sum(tensor.size / MIB for tensor in header.tensors if tensor.name == "token_embd.weight")
    return LayerWeights(tuple(dense), tuple(experts), output, counts.nextn)
