"""llama.cpp's own --fit beside the plan: what it answers, read as layers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from tasks.planning.coverage import covered, layer_of
from tasks.planning.gguf_header import Tensor
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


def whole_layers(answer: Sequence[str], weights: Weights, tensors: Sequence[Tensor], gpus: int) -> tuple[int, ...]:
    """How many layers on each GPU have all their experts on GPUs.

    fit may lay some of a layer's experts onto the next GPU; such a layer counts as whole too.
    """
    said = dict(zip(answer[::2], answer[1::2], strict=False))
    layers = weights.layers
    on_gpu = int(said.get("-ngl", -1))
    first = max(0, layers + 1 - on_gpu) if on_gpu >= 0 else 0
    shares = [int(share) for share in said.get("-ts", "1").split(",")]
    in_ram = {
        number
        for rule in covered(said.get("-ot", "").split(",") if "-ot" in said else [], tensors)
        if rule.device == "CPU"
        for tensor in rule.tensors
        if EXPERTS.search(tensor.name) and (number := layer_of(tensor.name)) is not None
    }
    counts = [0] * gpus
    for layer in range(first, layers):
        if layer not in in_ram:
            counts[_gpu_of(layer - first, shares, layers + 1 - first)] += 1
    return tuple(counts)


def _gpu_of(index: int, shares: Sequence[int], placed: int) -> int:
    """The first GPU whose cumulative share is beyond this layer (src/llama-model.cpp, pinned commit)."""
    reached, total = 0, sum(shares)
    for gpu, share in enumerate(shares):
        reached += share
        if reached / total > index / placed:
            return gpu
    return len(shares) - 1
