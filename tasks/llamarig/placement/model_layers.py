"""A model's layers, as llama.cpp counts them from the header, and the size of their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from llamarig.declare.placement import Experts
from llamarig.remote.shared.gguf_header import Header, Tensor, Value

MIB = 1 << 20
EXPERTS = re.compile(r"ffn_(up|down|gate|gate_up)_(?:ch|)exps")
"""The same names as in the generated --override-tensor rule; biases and scales match, too."""
_LAYER = re.compile(r"blk\.(\d+)\.")
_MOST_LAYERS = 512
"""llama.cpp's LLAMA_MAX_LAYERS (src/llama-hparams.h:11, pinned commit): it loads no model with more."""


def layer_of(name: str) -> int | None:
    """The number of a tensor's layer, None for tensors outside of layers."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class LayerCounts:
    """How many layers a model has, as llama.cpp counts them (src/llama-hparams.cpp:348, pinned commit).

    ``trunk``: layers that compute every token. ``nextn``: layers of multi-token prediction, numbered after them; each
    has a position in every split, and is loaded only for speculation draft-mtp (common/common.cpp:1625).
    """

    trunk: int
    nextn: int = 0

    @property
    def all(self) -> int:
        """All layers: block_count in the header, n_layer_all in llama.cpp."""
        return self.trunk + self.nextn

    @property
    def positions(self) -> int:
        """What --tensor-split and --n-gpu-layers count: all layers and the output (src/llama-model.cpp:1589-1597)."""
        return self.all + 1


def layer_counts(tensors: Sequence[Tensor], metadata: Mapping[str, Value]) -> LayerCounts:
    """Count a model's layers from its metadata, as llama.cpp does (src/llama-model.cpp:1327-1330).

    A file may declare layers of multi-token prediction without holding their tensors: they have their positions all the
    same. Only a header without a block_count, which llama.cpp would not load, is counted by its tensors.
    """
    architecture = metadata.get("general.architecture")
    count, nextn = metadata.get(f"{architecture}.block_count"), metadata.get(f"{architecture}.nextn_predict_layers", 0)
    if isinstance(count, int) and isinstance(nextn, int) and 0 <= nextn <= count <= _MOST_LAYERS and count:
        return LayerCounts(count - nextn, nextn)
    numbers = {layer_of(tensor.name) for tensor in tensors} - {None}
    predicting = {layer_of(tensor.name) for tensor in tensors if ".nextn." in tensor.name}
    return LayerCounts(len(numbers - predicting), len(predicting))


def loaded_tensors(header: Header, *, mtp: bool) -> tuple[Tensor, ...]:
    """The tensors that llama.cpp loads: without draft-mtp those of multi-token prediction layers are skipped.

    (TENSOR_SKIP in src/models/, for example qwen35moe.cpp:41 and glm4-moe.cpp:38, pinned commit.)

    :param mtp: whether the model is served with speculation draft-mtp
    """
    trunk = layer_counts(header.tensors, header.metadata).trunk
    return tuple(tensor for tensor in header.tensors if mtp or (layer_of(tensor.name) or 0) < trunk)


def ranges(numbers: Sequence[int]) -> str:
    """Format sorted numbers with consecutive ones joined: ``0-12, 15``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


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
