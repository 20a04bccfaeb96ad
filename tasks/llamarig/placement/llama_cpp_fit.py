"""Parses the result of llama.cpp's own --fit, which a plan is compared with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from llamarig.placement.dry_run import DryRunError, failure
from llamarig.placement.model_layers import EXPERTS, LayerWeights, layer_of
from llamarig.placement.tensor_overrides import rule_coverage
from llamarig.records.plan_file import PlannedDevice
from llamarig.remote.shared.gguf_header import Tensor
from llamarig.render.placement_arguments import gpu_of


def fit_answer(output: str) -> list[str]:
    """Parse the arguments that ``llama-fit-params --fit on`` prints.

    :raises DryRunError: if it gave up
    """
    for line in output.splitlines():
        if line.startswith("-c "):
            return shlex.split(line)
    raise DryRunError(f"llama.cpp's own fit gave up: {failure(output)}")


def fit_layers(
    answer: Sequence[str], weights: LayerWeights, tensors: Sequence[Tensor], devices: Sequence[PlannedDevice]
) -> tuple[tuple[int, ...], int]:
    """Count the layers of fit's answer. Without a split llama.cpp divides by free memory.

    :return: for each GPU, its layers with attention, cache and all experts there; and the number of further layers
        whose experts are on two GPUs, with none in RAM
    """
    flags = dict(zip(answer[::2], answer[1::2], strict=False))
    layers, positions = weights.layers, weights.positions
    on_gpu = int(flags.get("-ngl", -1))
    first = max(0, positions - on_gpu) if on_gpu >= 0 else 0
    free = [device.free_mib for device in devices]
    shares = [int(share) for share in flags["-ts"].split(",")] if "-ts" in flags else free
    elsewhere: dict[int, set[str]] = {}
    for rule in rule_coverage(flags["-ot"].split(",") if "-ot" in flags else [], tensors):
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
    return tuple(counts), spread
