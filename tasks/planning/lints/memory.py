"""Lints of RAM: what a model keeps there beside what the box has. llama.cpp itself counts none of it."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning.box import Box
from tasks.planning.coverage import host_bytes
from tasks.planning.gguf_header import Header
from tasks.planning.lints.lint import Lint
from tasks.spec.model import Model
from tasks.spec.placement import AllOnGpu, CpuOnly, Fit

GIB = 1 << 30
MIB = 1 << 20
_CACHE_RAM_MIB = 8192
_CHECKPOINTS = 32
"""llama.cpp's own --cache-ram and --ctx-checkpoints (common/common.h, pinned commit)."""
_SYSTEM = 2 * GIB
"""What the operating system and llama-server itself take, roughly."""


def weights_in_ram(model: Model, model_bytes: int, header: Header | None, vram: int = 0) -> int | None:
    """Bytes of weights in RAM, at least; None where not even that can be said.

    :param vram: bytes of all GPUs together, 0 where unknown: what does not fit there stays in RAM, wherever llama.cpp's
        own fit puts the rest
    """
    placement = model.serve.placement
    if isinstance(placement, CpuOnly):
        return model_bytes
    if isinstance(placement, AllOnGpu):
        return 0  # but for the token embedding, a few hundred MiB
    if isinstance(placement, Fit):
        return max(model_bytes - vram, 0) if vram else None
    return host_bytes(placement, header, mtp=model.serve.loads_mtp) if header else None


def wants_vram(model: Model) -> bool:
    """Whether the lints of RAM ask how much the GPUs have."""
    return isinstance(model.serve.placement, Fit)


def state_bytes(header: Header) -> int:
    """Bytes of one checkpoint of a hybrid model's recurrent state (src/llama-memory-recurrent.cpp, pinned commit).

    0 for a model that has none, or another kind of it.
    """
    architecture = header.metadata.get("general.architecture")
    keys = ("conv_kernel", "inner_size", "state_size", "group_count")
    values = [header.metadata.get(f"{architecture}.ssm.{key}") for key in keys]
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) < len(keys):
        return 0
    kernel, inner, state, groups = numbers
    layers = sum(tensor.name.endswith(".ssm_conv1d.weight") for tensor in header.tensors)
    return layers * 4 * ((kernel - 1) * (inner + 2 * groups * state) + state * inner)


def memory_lints(model: Model, box: Box, model_bytes: int, header: Header | None) -> Iterator[Lint]:
    """Weights, prompt cache, checkpoints and pinned buffers, together and alone."""
    serve = model.serve
    weights = weights_in_ram(model, model_bytes, header, box.vram)
    if not box.ram or weights is None:
        return
    if serve.load_mode in ("mlock", "mmap+mlock", "none") and weights > box.ram:
        yield Lint(
            "memory-lock",
            "refusal",
            f"load_mode {serve.load_mode} keeps {weights / GIB:.1f} GiB of weights in RAM, and the box has "
            f"{box.ram / GIB:.1f} GiB: loading would end in swapping or an out-of-memory kill",
            "put more layers on the GPU, take a smaller quant, or load_mode mmap, which reads from the disk",
        )
        return
    cache = _CACHE_RAM_MIB if serve.cache_ram_mib is None else max(serve.cache_ram_mib, 0)
    count = _CHECKPOINTS if serve.context_checkpoints is None else serve.context_checkpoints
    checkpoints = count * serve.parallel * state_bytes(header) if header else 0
    # The KQ mask of 16 bits, the largest of the buffers a GPU reads from pinned RAM.
    pinned = serve.context * serve.ubatch * 2
    needed = weights + cache * MIB + checkpoints + pinned + _SYSTEM
    if needed > box.ram:
        follows = {
            "auto": "expert weights fall out of the page cache and are read from the disk again",
            "mmap": "expert weights fall out of the page cache and are read from the disk again",
        }.get(serve.load_mode, "the box swaps, or the kernel ends the server once the caches have grown")
        least = "at least " if wants_vram(model) else ""
        yield Lint(
            "memory-budget",
            "warning",
            f"{least}{weights / GIB:.1f} GiB of weights in RAM, {cache / 1024:.1f} GiB prompt cache, "
            f"{checkpoints / GIB:.1f} GiB checkpoints, {pinned / GIB:.1f} GiB buffers and {_SYSTEM // GIB} GiB for the "
            f"system make {needed / GIB:.1f} of {box.ram / GIB:.1f} GiB: {follows}",
            "lower cache_ram_mib or context_checkpoints, or put more layers on the GPU",
        )
