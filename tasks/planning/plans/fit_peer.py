"""llama.cpp's own --fit beside the plan: what it answers, read as layers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.planning.coverage import covered, layer_of
from tasks.planning.gguf_header import Tensor
from tasks.planning.placement import gpu_of
from tasks.planning.plans.device import Device
from tasks.planning.plans.dry_run import DryRunError, failure
from tasks.planning.plans.weights import EXPERTS, Weights


def fit_answer(output: str) -> list[str]:
    """The arguments that ``llama-fit-params --fit on`` prints.

    :raises DryRunError: when it gave up
    """
    for line in output.splitlines():
        if line.startswith("-c "):
            return shlex.split(line)
    raise DryRunError(f"llama.cpp's own fit gave up: {failure(output)}")


@dataclass(frozen=True)
class FitLayers:
    """``whole``: layers with all their experts on the GPU that has their attention and cache; ``spread``: how many more
    have theirs on two GPUs, none in RAM."""

    whole: tuple[int, ...]
    spread: int


def fit_layers(
    answer: Sequence[str], weights: Weights, tensors: Sequence[Tensor], devices: Sequence[Device]
) -> FitLayers:
    """What fit's answer does with each layer's experts. Without a split llama.cpp goes by free memory."""
    said = dict(zip(answer[::2], answer[1::2], strict=False))
    layers, positions = weights.layers, weights.positions
    on_gpu = int(said.get("-ngl", -1))
    first = max(0, positions - on_gpu) if on_gpu >= 0 else 0
    free = [device.free_mib for device in devices]
    shares = [int(share) for share in said["-ts"].split(",")] if "-ts" in said else free
    elsewhere: dict[int, set[str]] = {}
    for rule in covered(said["-ot"].split(",") if "-ot" in said else [], tensors):
        for tensor in rule.tensors:
            number = layer_of(tensor.name)
            if number is not None and EXPERTS.search(tensor.name):
                elsewhere.setdefault(number, set()).add(rule.device)
    counts, spread = [0] * len(devices), 0
    for layer in range(first, layers):
        gpu = gpu_of(layer - first, shares, positions - first)
        others = elsewhere.get(layer, set()) - {devices[gpu].name}
        counts[gpu] += not others
        spread += bool(others) and "CPU" not in others
    return FitLayers(tuple(counts), spread)
