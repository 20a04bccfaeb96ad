"""Decides for a plan how its weights in RAM are loaded: pinned where RAM and VRAM have room, else mapped, with what
lacked and by how much.

``mlock`` reads prompts as fast as ``none`` (1,598 to 1,826 tokens/s against 1,634 to 1,831 for 2,000 tokens on two
H200s: tests/gpu/RESULTS.md) and is no default: pinned weights are not swapped either, and what it adds where pinning
fails has not been measured. On Vulkan nothing is pinned by default: its host memory comes from GTT, half of the RAM
where nobody has set more (Linux: drivers/gpu/drm/ttm/ttm_device.c), and no card has been measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llamarig.declare.serve.weights import LoadMode
from llamarig.records.plan_file import Plan, PlannedLoading


@dataclass(frozen=True)
class Pinning:
    """What decides whether a plan's weights in RAM are pinned.

    ``declared``: the load mode as declared. ``ram_mib``: RAM that the server may take with pinned weights, None where
    they cannot be pinned, for the reason ``obstacle`` (empty where pinning would gain nothing). ``raises_margins``:
    whether pinned weights want larger margins; False where the owner accepted the declared ones.
    """

    declared: LoadMode = "auto"
    ram_mib: int | None = None
    obstacle: str = ""
    raises_margins: bool = True


def ram_of(plan: Plan) -> int:
    """MiB of RAM that the plan's server takes with full caches, without the reserve of the system."""
    return plan.ram.total_mib - plan.ram.reserve_mib


def loading(plan: Plan, pinning: Pinning) -> PlannedLoading:
    """How the weights of a plan are loaded, if its margins are large enough for pinned ones."""
    if pinning.declared != "auto":
        return PlannedLoading(mode=pinning.declared)
    if not plan.pinnable_mib:
        return PlannedLoading(mode="auto")
    if pinning.ram_mib is None:
        return PlannedLoading(mode="auto", why=pinning.obstacle)
    lacks = ram_of(plan) - pinning.ram_mib
    if lacks <= 0:
        return PlannedLoading(mode="none")
    why = (
        f"RAM lacks {lacks} MiB: pinned, the server takes {ram_of(plan)} (weights {plan.ram.weights_mib}, buffers "
        f"{plan.ram.buffers_mib}, full caches {plan.ram.cache_mib + plan.ram.checkpoints_mib}), and "
        f"{max(0, pinning.ram_mib)} are for it: MemTotal less host.memory_reserve_mib and the models beside it, or "
        "memory_max_mib"
    )
    return PlannedLoading(mode="auto", ram_lacks_mib=lacks, why=why)


def mapped_for_lack_of_vram(plan: Plan, margins_mib: tuple[int, ...]) -> PlannedLoading:
    """The loading of a plan that cannot leave the margins of pinned weights without giving something else up.

    :param margins_mib: what pinned weights need on each GPU
    """
    others = plan.belongs.others_mib or (0,) * len(plan.gpus)
    free = [
        device.free_mib - row.total_mib - other
        for device, row, other in zip(plan.belongs.devices, plan.gpus, others, strict=True)
    ]
    lacks = tuple(max(0, margin - left) for margin, left in zip(margins_mib, free, strict=True))
    why = (
        f"VRAM lacks {_each(lacks)} MiB: the plan leaves {_each(free)} MiB on the GPUs, pinned weights need "
        f"{_each(margins_mib)}, and nothing more can go to RAM unless a declared setting is lowered"
    )
    return PlannedLoading(mode="auto", vram_lacks_mib=lacks, why=why)


def _each(mib: Sequence[int]) -> str:
    return "/".join(str(number) for number in mib)
