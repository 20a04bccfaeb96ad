"""The RAM a plan takes beside what the box has: weights, buffers, prompt cache, checkpoints. llama.cpp counts none."""

from __future__ import annotations

from tasks.planning.plans.ladder import MOST_STEPS
from tasks.spec.plan_file import DeviceMemory, Plan, RamBudget
from tasks.spec.serve import Serve

CACHE_RAM_MIB = 8192
CHECKPOINTS = 32
"""llama.cpp's own --cache-ram and --ctx-checkpoints (common/common.h, pinned commit)."""
RESERVE_MIB = 2048
"""What the operating system and llama-server itself take, roughly."""


def ram_budget(serve: Serve, host: DeviceMemory, state_mib: float, available_mib: int) -> RamBudget:
    """What of a server is in RAM, and what there is.

    :param host: what a dry run says stays there
    :param state_mib: MiB of one checkpoint of a slot
    :param available_mib: MemAvailable with nothing of ours running, 0 where unknown
    """
    cache = CACHE_RAM_MIB if serve.cache_ram_mib is None else max(serve.cache_ram_mib, 0)
    count = CHECKPOINTS if serve.context_checkpoints is None else serve.context_checkpoints
    return RamBudget(
        weights_mib=host.model_mib,
        buffers_mib=host.context_mib + host.compute_mib,
        cache_mib=cache,
        checkpoints_mib=round(count * serve.parallel * state_mib),
        reserve_mib=RESERVE_MIB,
        available_mib=available_mib,
    )


def ram_findings(serve: Serve, budget: RamBudget) -> tuple[list[str], list[str]]:
    """What cannot work, and what is only to be known."""
    if not budget.available_mib:
        return [], ["how much RAM is available is not known, so it was not checked"]
    at_once = budget.weights_mib + budget.buffers_mib + budget.reserve_mib
    if serve.load_mode in ("none", "mlock", "mmap+mlock") and at_once > budget.available_mib:
        return [
            f"load_mode {serve.load_mode} needs {at_once} MiB of RAM at once (weights {budget.weights_mib}, buffers "
            f"{budget.buffers_mib}, reserve {budget.reserve_mib}), and {budget.available_mib} MiB are available: "
            "take a smaller quant, or load_mode mmap, which reads from the disk"
        ], []
    if budget.total_mib <= budget.available_mib:
        return [], []
    follows = {
        "auto": "expert weights would fall out of the page cache and be read from the disk again",
        "mmap": "expert weights would fall out of the page cache and be read from the disk again",
    }.get(serve.load_mode, "the box would swap once the caches have grown")
    return [], [
        f"RAM: {budget.total_mib} MiB with full caches, {budget.available_mib} MiB are available: {follows}; lower "
        "cache_ram_mib or context_checkpoints"
    ]


def memory_limit_mib(serve: Serve, plan: Plan) -> int | None:
    """What the unit of a planned model may take of RAM: as declared, else all that the plan counts, its reserve too.

    And as much again as the steps down of a first start may bring from the GPUs, so that one limit holds for all of
    them. None for mmap+mlock, which locks a mapping of nearly the whole file (src/llama-model-loader.cpp, pinned
    commit).
    """
    if serve.memory_max_mib is not None or serve.load_mode == "mmap+mlock":
        return serve.memory_max_mib
    steps = [
        gpu.model_mib * min(whole, MOST_STEPS) // max(whole, 1)
        for gpu, whole in zip(plan.gpus, plan.placement.gpu, strict=True)
    ]
    return plan.ram.total_mib + sum(steps)
