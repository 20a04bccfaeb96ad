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
INPUT_TENSORS = ("token_embd.", "per_layer_token_embd.", "position_embd.", "token_types.")
"""Beginnings of the names of tensors of the input layer. They always stay in RAM, where rows of them are looked up
(LLM_TENSOR_LAYER_INPUT in src/llama-arch.cpp, dev_input in src/llama-model.cpp:1605, pinned commit)."""
_LAYER = re.compile(r"blk\.(\d+)\.")
_MOST_LAYERS = 512
"""llama.cpp's LLAMA_MAX_LAYERS (src/llama-hparams.h:11, pinned commit): it loads no model with more."""
_NEVER_LOADED = ("bailingmoe2", "dots3note", "exaone-moe", "exaone4", "glm4")
"""Architectures whose layers of multi-token prediction the pinned commit skips also for draft-mtp (src/models/)."""
_NOT_COMPUTED = ("glm5-next",)
"""Architectures whose layers of multi-token prediction are loaded for draft-mtp, and which have no graph for them yet:
the server ends with an error (src/models/glm5-next.cpp:190, pinned commit)."""
_CHAINED = ("hy_v3", "mimo2", "step35")
"""Architectures that draft with several layers of multi-token prediction. The graphs of all others assert that there is
one (src/models/, for example deepseek2.cpp:173 and qwen35.cpp:489, pinned commit)."""
_HEAD = r"nextn[.](embed_tokens|shared_head_head|shared_head_norm)[.]"
_ALWAYS_LOADED = {
    "cohere2moe": _HEAD,
    "hy_v3": rf"{_HEAD}|ffn_(?!norm[.])",
    "step35": rf"{_HEAD}|ffn_(?!norm[.])|attn_(q_norm|k_norm|gate)[.]",
}
"""Tensors of layers of multi-token prediction that the pinned commit loads without draft-mtp, too: created without
TENSOR_SKIP in src/models/ of that name."""
_OF_FIRST_LAYER = ("per_layer_model_proj.", "per_layer_proj_norm.")
"""Tensors without a number that are created for layer 0 (src/models/gemma3n.cpp and gemma4.cpp, pinned commit)."""


def layer_of(name: str) -> int | None:
    """The number of a tensor's layer, None for tensors outside of layers."""
    if name.startswith(_OF_FIRST_LAYER):
        return 0
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
        return _as_loaded(LayerCounts(count - nextn, nextn), tensors, metadata)
    numbers = {layer_of(tensor.name) for tensor in tensors} - {None}
    predicting = {layer_of(tensor.name) for tensor in tensors if ".nextn." in tensor.name}
    return LayerCounts(len(numbers - predicting), len(predicting))


def _as_loaded(counts: LayerCounts, tensors: Sequence[Tensor], metadata: Mapping[str, Value]) -> LayerCounts:
    """The counts of the architectures that change them (load_arch_hparams in src/models/, pinned commit)."""
    architecture = metadata.get("general.architecture")
    loops = metadata.get("nanbeige.num_loops", 1)
    if architecture == "nanbeige" and isinstance(loops, int) and 1 < loops <= _MOST_LAYERS:
        return LayerCounts(min(counts.trunk * loops, _MOST_LAYERS))  # every loop has layers of its own, without weights
    if architecture == "graniteswitch":
        return LayerCounts(counts.trunk, 1)  # a router, which has a cache and no weights, comes after the others
    if architecture == "deepseek4" and f"blk.{counts.trunk}.nextn.eh_proj.weight" not in {one.name for one in tensors}:
        return LayerCounts(counts.all)  # without these tensors, the layer computes every token
    return counts


def loaded_tensors(header: Header, *, mtp: bool) -> tuple[Tensor, ...]:
    """The tensors that llama.cpp loads: without draft-mtp those of multi-token prediction layers are skipped.

    (TENSOR_SKIP in src/models/, for example qwen35moe.cpp:41 and glm4-moe.cpp:38, pinned commit.)

    :param mtp: whether the model is served with speculation draft-mtp
    """
    trunk = layer_counts(header.tensors, header.metadata).trunk
    architecture = str(header.metadata.get("general.architecture"))
    everything = mtp and architecture not in _NEVER_LOADED
    always = re.compile(rf"blk[.][0-9]+[.](?:{_ALWAYS_LOADED.get(architecture, '(?!)')})")
    return tuple(
        tensor
        for tensor in header.tensors
        if everything or (layer_of(tensor.name) or 0) < trunk or always.match(tensor.name)
    )


def runs_mtp(header: Header) -> bool:
    """Whether llama.cpp can speculate with layers of multi-token prediction in the model's own file."""
    return not why_no_mtp(header)


def why_no_mtp(header: Header) -> str:
    """Why llama.cpp cannot speculate with layers in the model's own file, as the end of a sentence about them."""
    architecture = header.metadata.get("general.architecture")
    if not any(".nextn." in tensor.name for tensor in header.tensors):
        return "which has none"
    if architecture in (*_NEVER_LOADED, *_NOT_COMPUTED):
        return "which llama.cpp does not use for this architecture"
    count = layer_counts(header.tensors, header.metadata).nextn
    if count > 1 and architecture not in _CHAINED:
        return f"of which llama.cpp uses one for this architecture, and the file has {count}"
    return ""


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

    ``nextn``: number of multi-token prediction layers after them; what is loaded of them counts with the output.
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


def layer_weights(header: Header, *, mtp: bool = False) -> LayerWeights:
    """Compute the sizes from a header. Tensors of the input layer stay in RAM and are not counted.

    :param mtp: whether the model is served with speculation draft-mtp: then its layers count with the output
    """
    counts = layer_counts(header.tensors, header.metadata)
    layers = counts.trunk
    dense, output = [0.0] * layers, 0.0
    experts: list[dict[Experts, float]] = [{} for _ in range(layers)]
    for tensor in loaded_tensors(header, mtp=mtp):
        number, size = layer_of(tensor.name), tensor.size / MIB
        found = EXPERTS.search(tensor.name)
        if number is None:
            output += 0.0 if tensor.name.startswith(INPUT_TENSORS) else size
        elif number < layers and found:
            kind = cast(Experts, found[1])
            experts[number][kind] = experts[number].get(kind, 0.0) + size
        elif number < layers:
            dense[number] += size
        else:
            output += size
    if not any(tensor.name == "output.weight" for tensor in header.tensors):
        # Tied embeddings: the output is a second copy of the embedding, on a GPU (src/llama-model.cpp, pinned commit).
        output += sum(tensor.size / MIB for tensor in header.tensors if tensor.name == "token_embd.weight")
    return LayerWeights(tuple(dense), tuple(experts), output, counts.nextn)
