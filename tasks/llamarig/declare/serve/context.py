"""Context, KV cache and batches."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from llamarig.declare.base import Declaration, Fraction
from llamarig.declare.flags import GGUF, OWNER, Flag
from llamarig.declare.kv_cache import CacheType

_of_rope = partial(Flag, default="the model's", source=GGUF, digits=9)
_UNQUANTIZED = ("f32", "f16", "bf16")
YARN_ONLY = ("yarn_original_context", "yarn_ext_factor", "yarn_beta_slow", "yarn_beta_fast")
"""Fields that are read where YaRN is on: by yarn_scale, or by the model's own metadata."""


class Context(Declaration):
    """How much a server keeps of a conversation, in which types, and how many tokens it computes at once."""

    context: Annotated[
        int, Field(ge=256, examples=[32768]), Flag("--ctx-size -c", "tokens", source=OWNER, decides_memory=True)
    ]
    """Always rendered: llama.cpp shrinks a context that is not set."""
    parallel: Annotated[
        int,
        Field(ge=1, le=64),
        Flag(
            "--parallel -np",
            "slots",
            source="llamarig: the whole context for one request; llama-server takes 4 (tools/server/server.cpp)",
            decides_memory=True,
            env="LLAMA_ARG_N_PARALLEL",
        ),
    ] = 1
    """Requests at a time (slots); the context is divided among them."""
    batch: Annotated[
        int, Field(ge=32), Flag("--batch-size -b", "tokens", decides_memory=True, env="LLAMA_ARG_BATCH")
    ] = 2048
    """Size of a logical batch."""
    ubatch: Annotated[
        int, Field(ge=32), Flag("--ubatch-size -ub", "tokens", decides_memory=True, env="LLAMA_ARG_UBATCH")
    ] = 512
    """Computed at once; more reads prompts faster and takes VRAM."""
    cache_type_k: Annotated[CacheType, Flag("--cache-type-k -ctk", decides_memory=True)] = "f16"
    """Type of the cached keys."""
    cache_type_v: Annotated[CacheType, Flag("--cache-type-v -ctv", decides_memory=True)] = "f16"
    """Type of the cached values; a quantized one needs flash attention."""
    flash_attention: Annotated[
        Literal["on", "off", "auto"],
        Flag(
            "--flash-attn -fa",
            source="llamarig: a quantized cache_type_v needs it; llama.cpp has auto",
            decides_memory=True,
        ),
    ] = "on"
    """Attention without a buffer for all scores."""
    cache_ram_mib: Annotated[int | None, Field(ge=-1), Flag("--cache-ram -cram", "MiB", default="8192")] = None
    """RAM for prompts of earlier requests; 0 switches it off, -1 is no limit."""
    context_checkpoints: Annotated[
        NonNegativeInt | None, Flag("--ctx-checkpoints -ctxcp --swa-checkpoints", "checkpoints per slot", default="32")
    ] = None
    """Copies of recurrent state that a slot keeps, to go back to."""
    checkpoint_min_step: Annotated[
        NonNegativeInt | None,
        Flag("--checkpoint-min-step -cms", "tokens", default="8192", env="LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT"),
    ] = None
    """Least distance of two checkpoints."""
    kv_unified: Annotated[bool | None, Flag("--kv-unified -kvu -no-kvu", off="--no-kv-unified", default="off")] = None
    """One KV cache for all slots."""
    slot_prompt_similarity: Annotated[
        Fraction | None, Flag("--slot-prompt-similarity -sps", "share", default="0.1")
    ] = None
    """A slot is chosen that holds at least this much of the prompt already."""
    rope_freq_base: Annotated[PositiveFloat | None, _of_rope("--rope-freq-base", decides_memory=True)] = None
    """Base frequency of the rotary position embedding."""
    rope_freq_scale: Annotated[PositiveFloat | None, _of_rope("--rope-freq-scale", decides_memory=True)] = None
    """1/N stretches the context N times."""
    yarn_scale: Annotated[
        float | None,
        Field(gt=1),
        Flag(
            "--rope-scaling",
            "factor",
            also=("--rope-scale",),
            default="the model's",
            source=GGUF,
            decides_memory=True,
            rendered_by="yarn_arguments",
            env="LLAMA_ARG_ROPE_SCALING_TYPE",
        ),
    ] = None
    """Context beyond the trained one, as a factor of it; switches YaRN on."""
    yarn_original_context: Annotated[
        int | None, Field(ge=256), _of_rope("--yarn-orig-ctx", "tokens", decides_memory=True)
    ] = None
    """The trained context."""
    yarn_ext_factor: Annotated[float | None, _of_rope("--yarn-ext-factor")] = None
    """Mix of extrapolation; 0 is interpolation alone."""
    yarn_attn_factor: Annotated[float | None, _of_rope("--yarn-attn-factor", "factor")] = None
    """Scale of the attention's magnitude."""
    yarn_beta_slow: Annotated[float | None, _of_rope("--yarn-beta-slow")] = None
    """High correction dimension."""
    yarn_beta_fast: Annotated[float | None, _of_rope("--yarn-beta-fast")] = None
    """Low correction dimension."""
    cache_reuse: Annotated[NonNegativeInt | None, Flag("--cache-reuse", "tokens", default="0")] = None
    """Shortest moved part of a prompt whose KV cache is shifted in place; 0 is never."""
    max_tokens: Annotated[PositiveInt | None, Flag("--n-predict -n --predict", "tokens", default="no limit")] = None
    """Longest answer to a request that sets no length."""
    swa_full: Annotated[bool, Flag("--swa-full", decides_memory=True)] = False
    """A cache of the whole context for layers with a sliding window; takes VRAM."""

    @model_validator(mode="after")
    def _values_fit_together(self) -> Context:
        if self.ubatch > self.batch:
            raise ValueError(f"ubatch {self.ubatch} is larger than batch {self.batch}: lower it or raise batch")
        if self.cache_type_v not in _UNQUANTIZED and self.flash_attention == "off":
            raise ValueError("a quantized cache_type_v needs flash attention: set flash_attention to on")
        return self
