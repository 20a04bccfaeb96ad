"""From a placement to the flags of llama.cpp."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from llamarig.declare.placement import AllOnGpu, Auto, CpuMoe, CpuOnly, Experts, Fit, Layers, Override, Placement

_EXPERTS = "ffn_(up|down|gate|gate_up)_(ch|)exps"
"""Expert tensors of a layer, the fused gate_up and chunked experts included (common/common.h, pinned commit)."""

_EVERYTHING = 99
"""Layers that are rendered where all are to be on GPUs. Most models have fewer, and llama.cpp takes more for all; a
number as small as that of each model would restart servers that an earlier version has started."""


def experts_on_cpu(layers: Iterable[int]) -> str:
    """Return an --override-tensor rule that keeps the experts of these layers, and no other tensors, in RAM.

    ``[.]`` is the same to std::regex as an escaped dot, and needs no quoting in a shell or a unit.
    """
    numbers = "|".join(str(layer) for layer in layers)
    return f"blk[.]({numbers})[.]{_EXPERTS}=CPU"


def gpu_of(position: int, shares: Sequence[int], positions: int) -> int:
    """Index of the GPU that holds a position of the split: the first whose cumulated share is beyond it.

    (std::upper_bound in src/llama-model.cpp:1597, pinned commit.)

    :param position: counted from the first layer on any GPU; the output is last
    :param shares: of --tensor-split, or free memory where there is none
    :param positions: number of layers on GPUs, and one for the output
    """
    reached, total = 0, sum(shares)
    for gpu, share in enumerate(shares):
        reached += share
        if reached / total > position / positions:
            return gpu
    return len(shares) - 1


def device_of_layers(placement: Layers, names: Sequence[str]) -> dict[int, str]:
    """Device of each layer by the split, with the output as a last layer after all others.

    :param names: of the GPUs, in device order
    """
    homes = dict.fromkeys(range(placement.in_ram), "CPU")
    for name, share in zip(names, placement.split, strict=True):
        homes |= dict.fromkeys(range(len(homes), len(homes) + share), name)
    return homes


def layers_with_experts_on_cpu(placement: Layers) -> list[int]:
    """Numbers of the layers whose experts are in RAM: on each GPU, those after its first ``gpu[i]`` layers."""
    return [layer for first, kept, end in _after_whole_layers(placement) for layer in range(first + bool(kept), end)]


def partial_layers(placement: Layers) -> dict[int, tuple[Experts, ...]]:
    """Number of each split layer -> its expert tensors that are on the GPU; its others are in RAM."""
    return {first: kept for first, kept, _ in _after_whole_layers(placement) if kept}


def _after_whole_layers(placement: Layers) -> Iterator[tuple[int, tuple[Experts, ...], int]]:
    """For each GPU: its first layer that is not whole, the expert tensors of it that stay, the end of its layers."""
    start = placement.in_ram
    partial = placement.partial or ((),) * len(placement.gpu)
    for whole, kept, layers in zip(placement.gpu, partial, placement.room, strict=True):
        yield start + whole, kept, start + layers
        start += layers


def _override(placement: Layers) -> str:
    """The value of --override-tensor; all tensors that it names are in RAM."""
    rules = []
    cpu = layers_with_experts_on_cpu(placement)
    if cpu:
        rules.append(experts_on_cpu(cpu))
    every: tuple[Experts, ...] = ("up", "gate", "down", "gate_up")
    for layer, kept in partial_layers(placement).items():
        moved = "|".join(kind for kind in every if kind not in kept)
        rules.append(f"blk[.]{layer}[.]ffn_({moved})_(ch|)exps=CPU")
    return ",".join(rules)


def placement_arguments(placement: Placement, positions: int = 0) -> Sequence[Sequence[str]]:
    """Flags with their values, one tuple per flag, in their long spelling.

    :param positions: layers of the model and its output, where they are known: what has to be on GPUs where all is
    :raises ValueError: for auto(), which is rendered from its plan
    """
    everything = str(max(_EVERYTHING, positions))
    match placement:
        case CpuOnly():
            return [("--n-gpu-layers", "0"), ("--fit", "off")]
        case AllOnGpu():
            return [("--n-gpu-layers", everything), ("--fit", "off")]
        case Layers():
            on_gpu = str(sum(placement.split)) if placement.in_ram else str(max(_EVERYTHING, sum(placement.split)))
            flags = [
                ("--n-gpu-layers", on_gpu),
                ("--fit", "off"),
                ("--tensor-split", ",".join(str(share) for share in placement.split)),
            ]
            rules = _override(placement)
            return [*flags, ("--override-tensor", rules)] if rules else flags
        case Auto():
            raise ValueError("auto() is rendered from its plan")
        case CpuMoe():
            flags = [("--n-gpu-layers", everything), ("--fit", "off")]
            if placement.split is not None:
                flags.append(("--tensor-split", ",".join(str(share) for share in placement.split)))
            return [*flags, ("--n-cpu-moe", str(placement.layers))]
        case Fit():
            flags = [("--fit", "on"), ("--fit-target", ",".join(str(mib) for mib in placement.target_mib))]
            minimum = placement.minimum_context
            return [*flags, ("--fit-ctx", str(minimum))] if minimum is not None else flags
        case Override():
            on_gpu = everything if placement.gpu_layers is None else str(placement.gpu_layers)
            flags = [("--n-gpu-layers", on_gpu), ("--fit", "off")]
            if placement.split is not None:
                flags.append(("--tensor-split", ",".join(str(share) for share in placement.split)))
            return [*flags, ("--override-tensor", ",".join(placement.rules))] if placement.rules else flags
