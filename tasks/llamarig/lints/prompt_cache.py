"""Lint of the prompt cache: whether it holds the state of a prompt that fills the context."""

from __future__ import annotations

from collections.abc import Iterator

from llamarig.declare.kv_cache import CacheType
from llamarig.declare.model import Model
from llamarig.lints.lint import Lint
from llamarig.remote.shared.gguf_header import Header

_BYTES: dict[CacheType, float] = {
    "f32": 4,
    "f16": 2,
    "bf16": 2,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Bytes of an element (ggml-common.h: block sizes of 32 elements, pinned commit)."""
_MIB = 1 << 20


def declares_prompt_cache(model: Model) -> bool:
    """Whether the owner has declared a prompt cache of a certain size."""
    return bool(model.serve.cache_ram_mib and model.serve.cache_ram_mib > 0)


def bytes_per_token(model: Model, header: Header) -> float | None:
    """Bytes of the KV cache for one token; None where the header does not tell it in this way.

    The rows of a layer's key and value projections are what the cache keeps of a token (src/llama-kv-cache.cpp:
    n_embd_k_gqa and n_embd_v_gqa). A window of attention keeps fewer tokens, and latent attention has no such tensors.
    """
    architecture = header.metadata.get("general.architecture")
    if f"{architecture}.attention.sliding_window" in header.metadata:
        return None
    rows = {".attn_k.weight": _BYTES[model.serve.cache_type_k], ".attn_v.weight": _BYTES[model.serve.cache_type_v]}
    found = [
        tensor.shape[1] * size
        for tensor in header.tensors
        for name, size in rows.items()
        if tensor.name.startswith("blk.") and tensor.name.endswith(name) and len(tensor.shape) > 1
    ]
    return sum(found) or None


def prompt_cache_lints(model: Model, header: Header) -> Iterator[Lint]:
    """A cache below the state of one full slot: longer prompts are never kept (server_prompt_cache::alloc)."""
    serve = model.serve
    size = bytes_per_token(model, header)
    if not declares_prompt_cache(model) or size is None:
        return
    cache = serve.cache_ram_mib or 0
    tokens = serve.context // (1 if serve.kv_unified else serve.parallel)
    if size * tokens > cache * _MIB:
        yield Lint(
            "prompt-cache-too-small",
            f"a prompt that fills the context of {tokens} tokens has a state of {size * tokens / _MIB:.0f} MiB, and "
            f"cache_ram_mib is {cache}: prompts of more than {int(cache * _MIB / size)} tokens are not kept, so such "
            "conversations are computed again from their start after another one (builds from before llama.cpp #25070, "
            "July 2026, keep one all the same, until RAM runs out)",
            "raise cache_ram_mib, or lower context, or choose a smaller cache_type_k and cache_type_v",
        )
