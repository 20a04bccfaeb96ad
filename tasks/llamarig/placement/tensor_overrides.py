"""Which tensors each --override-tensor rule moves. As in llama.cpp, the first rule that matches a name decides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llamarig.declare.placement import CpuMoe, CpuOnly, Layers, Override, Placement
from llamarig.placement.model_layers import layer_counts, layer_of, loaded_tensors, ranges
from llamarig.remote.shared.gguf_header import Header, Tensor
from llamarig.render.placement_arguments import placement_arguments

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


def placement_rules(placement: Placement) -> list[str]:
    """The rules of a placement that moves single tensors; empty for other placements."""
    if isinstance(placement, Override):
        return list(placement.rules)
    if isinstance(placement, CpuMoe):
        numbers = "|".join(str(layer) for layer in range(placement.layers))
        return [rf"blk\.({numbers})\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"]
    flags = {flag: value[0] for flag, *value in placement_arguments(placement)}
    return flags["--override-tensor"].split(",") if "--override-tensor" in flags else []


def host_bytes(placement: Placement, header: Header, *, mtp: bool = False) -> int | None:
    """Bytes of weights that stay in RAM; None if llama.cpp decides that when it loads.

    The token embedding always stays in RAM (src/llama-model.cpp, pinned commit).

    :param mtp: whether the model is served with speculation draft-mtp, which loads more layers
    """
    tensors = loaded_tensors(header, mtp=mtp)
    total = sum(tensor.size for tensor in tensors)
    if isinstance(placement, CpuOnly):
        return total
    if not isinstance(placement, Layers | CpuMoe | Override):
        return None
    found = rule_coverage(placement_rules(placement), tensors)
    on_cpu = {tensor.name for rule in found if rule.device == "CPU" for tensor in rule.tensors}
    elsewhere = {tensor.name for rule in found if rule.device != "CPU" for tensor in rule.tensors}
    # --n-gpu-layers leaves out the first layers; the output counts as the last one.
    in_ram = placement.in_ram if isinstance(placement, Layers) else 0
    if isinstance(placement, Override):
        in_ram = layer_counts(header.tensors, header.metadata).positions - placement.gpu_layers
    first = {t.name for t in tensors if (number := layer_of(t.name)) is not None and number < in_ram}
    on_cpu |= first - elsewhere
    on_cpu.add("token_embd.weight")
    return sum(tensor.size for tensor in tensors if tensor.name in on_cpu)
