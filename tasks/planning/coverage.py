"""Which tensors each --override-tensor rule moves, as llama.cpp asks: the first rule that matches a name anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.planning.gguf_header import Tensor
from tasks.planning.placement import placement_arguments
from tasks.spec.placement import CpuMoe, CpuOnly, Layers, Override, Placement

_LAYER = re.compile(r"blk\.(\d+)\.")
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


def layer_count(tensors: Iterable[Tensor]) -> int:
    """How many layers llama.cpp places: those of multi-token prediction (``nextn``) come after them."""
    numbers = {layer_of(tensor.name) for tensor in tensors} - {None}
    extra = {layer_of(tensor.name) for tensor in tensors if ".nextn." in tensor.name}
    return len(numbers - extra)


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


def host_bytes(placement: Placement, tensors: Sequence[Tensor]) -> int | None:
    """Bytes of weights that stay in RAM; None where llama.cpp decides that when it loads.

    The token embedding always does (src/llama-model.cpp, pinned commit).
    """
    total = sum(tensor.size for tensor in tensors)
    if isinstance(placement, CpuOnly):
        return total
    if not isinstance(placement, Layers | CpuMoe | Override):
        return None
    found = covered(rules_of(placement), tensors)
    on_cpu = {tensor.name for rule in found if rule.device == "CPU" for tensor in rule.tensors}
    elsewhere = {tensor.name for rule in found if rule.device != "CPU" for tensor in rule.tensors}
    if isinstance(placement, Override):
        # The layers beyond --n-gpu-layers are the first ones; the output counts as the last.
        on_gpu_from = layer_count(tensors) + 1 - placement.gpu_layers
        first = {t.name for t in tensors if (number := layer_of(t.name)) is not None and number < on_gpu_from}
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
