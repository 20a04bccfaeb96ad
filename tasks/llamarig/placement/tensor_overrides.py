"""Which tensors each --override-tensor rule moves. As in llama.cpp, the first rule that matches a name decides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamarig.declare.placement import CpuMoe, CpuOnly, Layers, Override, Placement
from llamarig.placement.model_layers import INPUT_TENSORS, layer_counts, layer_of, loaded_tensors, ranges
from llamarig.remote.shared.gguf_header import Header, Tensor
from llamarig.render.placement_arguments import experts_on_cpu, placement_arguments

MIB = 1 << 20


@dataclass(frozen=True)
class RuleCoverage:
    """A rule as written, and the tensors that it moves. ``shadowed``: matching tensors that an earlier rule moves."""

    rule: str
    device: str
    tensors: tuple[Tensor, ...]
    shadowed: tuple[Tensor, ...]

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers whose tensors it moves."""
        return sorted({number for tensor in self.tensors if (number := layer_of(tensor.name)) is not None})

    @property
    def size(self) -> int:
        """Bytes that it moves."""
        return sum(tensor.size for tensor in self.tensors)

    def __str__(self) -> str:
        where = f"layers {ranges(self.layers)}" if self.layers else "no layer"
        return f"{self.rule}: {where}, {len(self.tensors)} tensors, {self.size / MIB:.0f} MiB to {self.device}"


def rule_coverage(rules: Sequence[str], tensors: Sequence[Tensor]) -> list[RuleCoverage]:
    """The tensors that each rule moves, in the order of the rules.

    :raises re.error: for a rule that is not a regular expression
    """
    decided: set[str] = set()
    found = []
    for rule in rules:
        # llama.cpp splits a rule at the first equals sign (common/arg.cpp, pinned commit).
        pattern, _, device = rule.partition("=")
        expression = re.compile(pattern)
        matched = [tensor for tensor in tensors if expression.search(tensor.name)]
        moved = tuple(tensor for tensor in matched if tensor.name not in decided)
        shadowed = tuple(tensor for tensor in matched if tensor.name in decided)
        found.append(RuleCoverage(rule, device, moved, shadowed))
        decided.update(tensor.name for tensor in moved)
    return found


def tensors_in_ram(flags: Mapping[str, str], header: Header, *, mtp: bool) -> list[Tensor]:
    """The tensors whose weights stay in RAM, without those of the input layer, which always do.

    :param flags: --n-gpu-layers, and the flags that move single tensors, with their values
    :param mtp: whether the model is served with speculation draft-mtp, which loads more layers
    :raises re.error: for a rule that is not a regular expression
    """
    rules = flags["--override-tensor"].split(",") if "--override-tensor" in flags else []
    if "--n-cpu-moe" in flags:
        rules.append(experts_on_cpu(range(int(flags["--n-cpu-moe"]))))
    moved_to = {tensor.name: rule.device for rule in rule_coverage(rules, header.tensors) for tensor in rule.tensors}
    counts = layer_counts(header.tensors, header.metadata)
    # llama.cpp puts the last --n-gpu-layers layers on GPUs, and counts the output as one more.
    first_on_gpu = counts.positions - int(flags["--n-gpu-layers"])

    def device(tensor: Tensor) -> str:
        number = layer_of(tensor.name)
        position = counts.all if number is None else number
        return moved_to.get(tensor.name, "CPU" if position < first_on_gpu else "GPU")

    loaded = loaded_tensors(header, mtp=mtp)
    return [tensor for tensor in loaded if not tensor.name.startswith(INPUT_TENSORS) and device(tensor) == "CPU"]


def host_bytes(placement: Placement, header: Header, *, mtp: bool = False) -> int | None:
    """Bytes of weights that stay in RAM; None if llama.cpp decides that when it loads.

    :param mtp: whether the model is served with speculation draft-mtp, which loads more layers
    """
    if not isinstance(placement, CpuOnly | Layers | CpuMoe | Override):
        return None
    positions = layer_counts(header.tensors, header.metadata).positions
    flags = {pair[0]: pair[1] for pair in placement_arguments(placement, positions)}
    inputs = sum(tensor.size for tensor in header.tensors if tensor.name.startswith(INPUT_TENSORS))
    return inputs + sum(tensor.size for tensor in tensors_in_ram(flags, header, mtp=mtp))
