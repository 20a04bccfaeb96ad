"""Which tensors each --override-tensor rule moves, as llama.cpp asks: the first rule that matches a name anywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.planning.gguf_header import Header, Tensor, Value
from tasks.planning.placement import placement_arguments
from tasks.spec.placement import CpuMoe, CpuOnly, Layers, Override, Placement

_LAYER = re.compile(r"blk\.(\d+)\.")
_MOST_LAYERS = 512
"""llama.cpp's LLAMA_MAX_LAYERS (src/llama-hparams.h:11, pinned commit): it loads no model with more."""
MIB = 1 << 20


@dataclass(frozen=True)
class Covered:
    """A rule as written, and the tensors it decides about. ``shadowed`` are matches an earlier rule has taken."""

    rule: str
    device: str
    tensors: tuple[Tensor, ...]
    shadowed: tuple[Tensor, ...]

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers it touches."""
        return sorted({number for tensor in self.tensors if (number := layer_of(tensor.name)) is not None})

    @property
    def size(self) -> int:
        """Bytes it moves."""
        return sum(tensor.size for tensor in self.tensors)

    def __str__(self) -> str:
        where = f"layers {ranges(self.layers)}" if self.layers else "no layer"
        return f"{self.rule}: {where}, {len(self.tensors)} tensors, {self.size / MIB:.0f} MiB to {self.device}"


def layer_of(name: str) -> int | None:
    """The number of the layer a tensor belongs to, None for those of the whole model."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class LayerCounts:
    """How many layers a model has, as llama.cpp counts them (src/llama-hparams.cpp:348, pinned commit).

    ``trunk``: those that compute every token. ``nextn``: those of multi-token prediction, numbered after them; each
    has a position in every split, and is loaded for speculation draft-mtp alone (common/common.cpp:1625).
    """

    trunk: int
    nextn: int = 0

    @property
    def all(self) -> int:
        """Every layer: block_count in the header, n_layer_all in llama.cpp."""
        return self.trunk + self.nextn

    @property
    def positions(self) -> int:
        """What --tensor-split and --n-gpu-layers count: every layer, and the output (src/llama-model.cpp:1589-1597)."""
        return self.all + 1


def layer_counts(tensors: Sequence[Tensor], metadata: Mapping[str, Value]) -> LayerCounts:
    """A model's layers by its header's own numbers, as llama.cpp reads them (src/llama-model.cpp:1327-1330).

    A file may say that it has layers of multi-token prediction and hold none of their tensors: they have their
    positions all the same. Only a header without a block_count, which llama.cpp loads no model from, is counted by
    the layers its tensors name.
    """
    architecture = metadata.get("general.architecture")
    count, nextn = metadata.get(f"{architecture}.block_count"), metadata.get(f"{architecture}.nextn_predict_layers", 0)
    if isinstance(count, int) and isinstance(nextn, int) and 0 <= nextn <= count <= _MOST_LAYERS and count:
        return LayerCounts(count - nextn, nextn)
    numbers = {layer_of(tensor.name) for tensor in tensors} - {None}
    predicting = {layer_of(tensor.name) for tensor in tensors if ".nextn." in tensor.name}
    return LayerCounts(len(numbers - predicting), len(predicting))


def loaded_tensors(header: Header, *, mtp: bool) -> tuple[Tensor, ...]:
    """The tensors llama.cpp loads: layers of multi-token prediction are left in the file without draft-mtp.

    (TENSOR_SKIP in src/models/, for example qwen35moe.cpp:41 and glm4-moe.cpp:38, pinned commit.)

    :param mtp: whether the model is served with speculation draft-mtp
    """
    trunk = layer_counts(header.tensors, header.metadata).trunk
    return tuple(tensor for tensor in header.tensors if mtp or (layer_of(tensor.name) or 0) < trunk)


def covered(rules: Sequence[str], tensors: Sequence[Tensor]) -> list[Covered]:
    """What each rule decides about, in order.

    :raises re.error: for a rule that is no regular expression
    """
    taken: set[str] = set()
    found = []
    for rule in rules:
        # llama.cpp splits at the first equals sign (common/arg.cpp, pinned commit).
        pattern, _, device = rule.partition("=")
        expression = re.compile(pattern)
        matched = [tensor for tensor in tensors if expression.search(tensor.name)]
        mine = tuple(tensor for tensor in matched if tensor.name not in taken)
        found.append(Covered(rule, device, mine, tuple(tensor for tensor in matched if tensor.name in taken)))
        taken.update(tensor.name for tensor in mine)
    return found


def rules_of(placement: Placement) -> list[str]:
    """The rules of a placement that places tensors one by one; none for the others."""
    if isinstance(placement, Override):
        return list(placement.rules)
    if isinstance(placement, CpuMoe):
        numbers = "|".join(str(layer) for layer in range(placement.layers))
        return [rf"blk\.({numbers})\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"]
    said = {flag: value[0] for flag, *value in placement_arguments(placement)}
    return said["--override-tensor"].split(",") if "--override-tensor" in said else []


def host_bytes(placement: Placement, header: Header, *, mtp: bool = False) -> int | None:
    """Bytes of weights that stay in RAM; None where llama.cpp decides that when it loads.

    The token embedding always does (src/llama-model.cpp, pinned commit).

    :param mtp: whether the model is served with speculation draft-mtp, which loads more layers
    """
    tensors = loaded_tensors(header, mtp=mtp)
    total = sum(tensor.size for tensor in tensors)
    if isinstance(placement, CpuOnly):
        return total
    if not isinstance(placement, Layers | CpuMoe | Override):
        return None
    found = covered(rules_of(placement), tensors)
    on_cpu = {tensor.name for rule in found if rule.device == "CPU" for tensor in rule.tensors}
    elsewhere = {tensor.name for rule in found if rule.device != "CPU" for tensor in rule.tensors}
    # The layers beyond --n-gpu-layers are the first ones; the output counts as the last.
    in_ram = placement.in_ram if isinstance(placement, Layers) else 0
    if isinstance(placement, Override):
        in_ram = layer_counts(header.tensors, header.metadata).positions - placement.gpu_layers
    first = {t.name for t in tensors if (number := layer_of(t.name)) is not None and number < in_ram}
    on_cpu |= first - elsewhere
    on_cpu.add("token_embd.weight")
    return sum(tensor.size for tensor in tensors if tensor.name in on_cpu)


def ranges(numbers: Sequence[int]) -> str:
    """``0-12, 15``: neighbours joined."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
