"""From a declared placement to llama.cpp's flags for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.spec.placement import AllOnGpu, CpuMoe, CpuOnly, Fit, Layers, Override, Placement

_EXPERTS = "ffn_(up|down|gate|gate_up)_(ch|)exps"
"""Expert tensors of a layer, the fused gate_up and chunked experts included (common/common.h, pinned commit)."""


def experts_on_cpu(layers: Iterable[int]) -> str:
    """One --override-tensor rule that keeps the experts of these layers in RAM and touches nothing else.

    Written with ``[.]`` instead of an escaped dot: it means the same to std::regex, and neither a shell nor systemd
    has an opinion on it.
    """
    numbers = "|".join(str(layer) for layer in layers)
    return f"blk[.]({numbers})[.]{_EXPERTS}=CPU"


def layers_with_experts_on_cpu(placement: Layers) -> list[int]:
    """Layer numbers whose experts stay in RAM: on each GPU, those after its first ``gpu[i]`` layers."""
    cpu: list[int] = []
    start = 0
    last = len(placement.split) - 1
    for index, (whole, share) in enumerate(zip(placement.gpu, placement.split, strict=True)):
        end = start + share - (1 if index == last else 0)  # the last share holds the output layer
        cpu.extend(range(start + whole, end))
        start = end
    return cpu


def placement_arguments(placement: Placement) -> Sequence[Sequence[str]]:
    """Flags with their values, one tuple a flag, in llama-server's long spelling."""
    match placement:
        case CpuOnly():
            return [("--n-gpu-layers", "0"), ("--fit", "off")]
        case AllOnGpu():
            return [("--n-gpu-layers", "99"), ("--fit", "off")]
        case Layers():
            flags = [
                ("--n-gpu-layers", "99"),
                ("--fit", "off"),
                ("--tensor-split", ",".join(str(share) for share in placement.split)),
            ]
            cpu = layers_with_experts_on_cpu(placement)
            return [*flags, ("--override-tensor", experts_on_cpu(cpu))] if cpu else flags
        case CpuMoe():
            return [("--n-gpu-layers", "99"), ("--fit", "off"), ("--n-cpu-moe", str(placement.layers))]
        case Fit():
            flags = [("--fit", "on"), ("--fit-target", ",".join(str(mib) for mib in placement.target_mib))]
            minimum = placement.minimum_context
            return [*flags, ("--fit-ctx", str(minimum))] if minimum is not None else flags
        case Override():
            flags = [("--n-gpu-layers", str(placement.gpu_layers)), ("--fit", "off")]
            if placement.split is not None:
                flags.append(("--tensor-split", ",".join(str(share) for share in placement.split)))
            return [*flags, ("--override-tensor", ",".join(placement.rules))]
