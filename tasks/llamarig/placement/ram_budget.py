"""Computes the RAM of a plan: weights, buffers, prompt cache, checkpoints. llama.cpp itself checks none of it."""

from __future__ import annotations

from llamarig.declare.serve import Serve
from llamarig.declare.serve.weights import HELD_IN_RAM
from llamarig.placement.steps_down import MAX_STEPS
from llamarig.placement.unified_memory import memory_in_ram_of
from llamarig.records.plan_file import DeviceMemory, Plan, RamBudget

CACHE_RAM_MIB = 8192
CHECKPOINTS = 32
"""llama.cpp's defaults of --cache-ram and --ctx-checkpoints (common/common.h, pinned commit)."""
RESERVE_MIB = 2048
"""Rough need of the operating system and llama-server itself."""


def prompt_cache_mib(serve: Serve) -> int:
    """MiB of the prompt cache when full."""
    return CACHE_RAM_MIB if serve.cache_ram_mib is None else max(serve.cache_ram_mib, 0)


def checkpoint_count(serve: Serve) -> int:
    """Context checkpoints of all slots together."""
    return (CHECKPOINTS if serve.context_checkpoints is None else serve.context_checkpoints) * serve.parallel


def ram_budget(
    serve: Serve, host: DeviceMemory, state_mib: float, available_mib: int, reserve_mib: int = RESERVE_MIB
) -> RamBudget:
    """The RAM of a server, and the RAM available for it.

    :param host: memory that a dry run predicts in RAM
    :param state_mib: MiB of one checkpoint of a slot
    :param available_mib: MemAvailable with none of our servers running, 0 if unknown
    :param reserve_mib: for the system
    """
    return RamBudget(
        weights_mib=host.model_mib,
        buffers_mib=host.context_mib + host.compute_mib,
        cache_mib=prompt_cache_mib(serve),
        checkpoints_mib=round(checkpoint_count(serve) * state_mib),
        reserve_mib=reserve_mib,
        available_mib=available_mib,
    )


def ram_shortages(serve: Serve, budget: RamBudget, gpu_mib: int = 0) -> tuple[list[str], list[str]]:
    """Problems of a RAM budget: those that rule the plan out, and those that are only worth a note.

    :param gpu_mib: RAM that the server takes as GPU memory (placement/unified_memory.py)
    """
    if not budget.available_mib:
        return [], ["the available RAM is unknown, so it was not checked"]
    if gpu_mib and gpu_mib + budget.total_mib > budget.available_mib:
        return [
            f"the GPU's memory is the RAM of the box: the model needs {gpu_mib + budget.total_mib} MiB of it (GPU "
            f"{gpu_mib}, weights {budget.weights_mib}, buffers {budget.buffers_mib}, full caches "
            f"{budget.cache_mib + budget.checkpoints_mib}, reserve {budget.reserve_mib}), and {budget.available_mib} "
            "MiB are available: choose a smaller quant, lower context, or cache_ram_mib and context_checkpoints; "
            "layers in RAM take the same memory"
        ], []
    at_once = budget.weights_mib + budget.buffers_mib + budget.reserve_mib
    if serve.load_mode in HELD_IN_RAM and at_once > budget.available_mib:
        return [
            f"load_mode {serve.load_mode} needs {at_once} MiB of RAM at once (weights {budget.weights_mib}, buffers "
            f"{budget.buffers_mib}, reserve {budget.reserve_mib}), and {budget.available_mib} MiB are available: "
            "choose a smaller quant, or load_mode mmap, which reads from the disk"
        ], []
    if budget.total_mib <= budget.available_mib:
        return [], []
    consequence = {
        "auto": "expert weights would fall out of the page cache and be read from the disk again",
        "mmap": "expert weights would fall out of the page cache and be read from the disk again",
    }.get(serve.load_mode, "the box would swap once the caches have grown")
    return [], [
        f"RAM: {budget.total_mib} MiB with full caches, {budget.available_mib} MiB are available: {consequence}; lower "
        "cache_ram_mib or context_checkpoints"
    ]


def memory_limit_mib(serve: Serve, plan: Plan) -> int | None:
    """MemoryMax of a planned model's unit: as declared, else everything that the plan counts, with its reserve.

    The limit includes the experts that steps down of a first start may bring from the GPUs to RAM, so that it is the
    same for all of them, and GPU memory that is RAM, which a driver may charge to the unit. None for mmap+mlock, which
    locks a mapping of nearly the whole file (src/llama-model-loader.cpp, pinned commit).
    """
    if serve.memory_max_mib is not None or serve.load_mode == "mmap+mlock":
        return serve.memory_max_mib
    steps = [
        gpu.model_mib * min(whole, MAX_STEPS) // max(whole, 1)
        for gpu, whole in zip(plan.gpus, plan.placement.gpu, strict=True)
    ]
    return plan.ram.total_mib + sum(steps) + memory_in_ram_of(plan)
