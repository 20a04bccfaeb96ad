"""Lints of RAM: the need of a model compared with the box's RAM, which llama.cpp itself does not check."""

from __future__ import annotations

from collections.abc import Iterator

from llamarig.declare.model import Model
from llamarig.declare.placement import AllOnGpu, CpuOnly, Fit
from llamarig.declare.serve.weights import HELD_IN_RAM
from llamarig.lints.lint import Lint
from llamarig.placement.box_capacity import BoxCapacity
from llamarig.placement.ram_budget import RESERVE_MIB, checkpoint_count, prompt_cache_mib
from llamarig.placement.tensor_overrides import host_bytes
from llamarig.placement.unified_memory import system_reserve_mib
from llamarig.remote.shared.gguf_header import Header

GIB = 1 << 30
MIB = 1 << 20
_SYSTEM = RESERVE_MIB * MIB


def weights_in_ram(model: Model, model_bytes: int, header: Header | None, vram: int = 0) -> int | None:
    """Bytes of weights in RAM, or a lower bound; None if there is neither.

    :param vram: bytes of all GPUs, 0 if unknown; weights that do not fit there stay in RAM wherever llama.cpp's fit
        places the rest
    """
    placement = model.serve.placement
    if isinstance(placement, CpuOnly):
        return model_bytes
    if isinstance(placement, AllOnGpu):
        return 0  # except for the token embedding, a few hundred MiB
    if isinstance(placement, Fit):
        return max(model_bytes - vram, 0) if vram else None
    return host_bytes(placement, header, mtp=model.serve.loads_mtp) if header else None


def needs_vram(model: Model) -> bool:
    """Whether the lints of RAM need the size of the GPUs' memory."""
    return isinstance(model.serve.placement, Fit)


def state_bytes(header: Header) -> int:
    """Bytes of one checkpoint of a hybrid model's recurrent state; 0 for other models.

    (src/llama-memory-recurrent.cpp, pinned commit.)
    """
    architecture = header.metadata.get("general.architecture")
    keys = ("conv_kernel", "inner_size", "state_size", "group_count")
    values = [header.metadata.get(f"{architecture}.ssm.{key}") for key in keys]
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) < len(keys) or not all(0 < number < 1 << 24 for number in numbers):
        return 0  # no model has such sizes
    kernel, inner, state, groups = numbers
    layers = sum(tensor.name.endswith(".ssm_conv1d.weight") for tensor in header.tensors)
    return layers * 4 * ((kernel - 1) * (inner + 2 * groups * state) + state * inner)


def memory_lints(model: Model, box: BoxCapacity, model_bytes: int, header: Header | None) -> Iterator[Lint]:
    """Weights alone if they are locked, else weights, prompt cache, checkpoints and buffers together."""
    serve = model.serve
    weights = weights_in_ram(model, model_bytes, header, box.vram)
    shared = box.shared and not isinstance(serve.placement, CpuOnly)
    if shared:  # wherever they are placed
        weights = max(model_bytes - box.set_aside, 0)
    if not box.ram or weights is None:
        return
    if serve.load_mode in HELD_IN_RAM and weights > box.ram:
        yield Lint(
            "memory-lock",
            f"load_mode {serve.load_mode} keeps {weights / GIB:.1f} GiB of weights in RAM, and the box has "
            f"{box.ram / GIB:.1f} GiB: loading would end in swapping or an out-of-memory kill",
            "put more layers on the GPU, choose a smaller quant, or load_mode mmap, which reads from the disk",
            severity="refusal",
        )
        return
    cache = prompt_cache_mib(serve)
    checkpoints = checkpoint_count(serve) * state_bytes(header) if header else 0
    # The KQ mask of 16 bits is the largest of the buffers that a GPU reads from pinned RAM.
    pinned = serve.context * serve.ubatch * 2
    system = system_reserve_mib(box.ram // MIB, RESERVE_MIB) * MIB if shared else _SYSTEM
    needed = weights + cache * MIB + checkpoints + pinned + system
    if needed > box.ram:
        consequence = {
            "auto": "expert weights fall out of the page cache and are read from the disk again",
            "mmap": "expert weights fall out of the page cache and are read from the disk again",
        }.get(serve.load_mode, "the box swaps, or the kernel ends the server once the caches have grown")
        if shared:
            consequence = "the GPU's memory is the same RAM, and such a box freezes when it is full"
        least = "at least " if needs_vram(model) else ""
        yield Lint(
            "memory-budget",
            f"{least}{weights / GIB:.1f} GiB of weights in RAM, {cache / 1024:.1f} GiB prompt cache, "
            f"{checkpoints / GIB:.1f} GiB checkpoints, {pinned / GIB:.1f} GiB buffers and {system / GIB:.3g} GiB for "
            f"the system make {needed / GIB:.1f} of {box.ram / GIB:.1f} GiB: {consequence}",
            "lower cache_ram_mib or context_checkpoints, or put more layers on the GPU",
        )
