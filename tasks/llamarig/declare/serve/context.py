"""Context, KV cache and batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import GGUF, LLAMA_CPP, OWNER, Flag
from llamarig.declare.kv_cache import CacheType

_UNQUANTIZED = ("f32", "f16", "bf16")
_NEED_YARN_SCALE = ("yarn_original_context", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_slow", "yarn_beta_fast")


class Context(Declaration):
    """How much a server keeps of a conversation, in which types, and how many tokens it computes at once."""

    context: Annotated[
        int,
        Field(ge=256, description="always rendered: llama.cpp shrinks a context that is not set"),
        Flag(
            "--ctx-size",
            aliases=("-c",),
            unit="tokens",
            source=OWNER,
            env=("LLAMA_ARG_CTX_SIZE",),
            decides_memory=True,
        ),
    ]
    parallel: Annotated[
        int,
        Field(ge=1, le=64, description="requests at a time (slots); the context is divided among them"),
        Flag(
            "--parallel",
            aliases=("-np",),
            unit="slots",
            source="llamarig: the whole context for one request; llama-server takes 4 (tools/server/server.cpp)",
            env=("LLAMA_ARG_N_PARALLEL",),
            decides_memory=True,
        ),
    ] = 1
    batch: Annotated[
        int,
        Field(ge=32, description="size of a logical batch"),
        Flag(
            "--batch-size",
            aliases=("-b",),
            unit="tokens",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_BATCH",),
            decides_memory=True,
        ),
    ] = 2048
    ubatch: Annotated[
        int,
        Field(ge=32, description="computed at once; more reads prompts faster and takes VRAM"),
        Flag(
            "--ubatch-size",
            aliases=("-ub",),
            unit="tokens",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_UBATCH",),
            decides_memory=True,
        ),
    ] = 512
    cache_type_k: Annotated[
        CacheType,
        Field(description="type of the cached keys"),
        Flag(
            "--cache-type-k",
            aliases=("-ctk",),
            unit="-",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_CACHE_TYPE_K",),
            decides_memory=True,
        ),
    ] = "f16"
    cache_type_v: Annotated[
        CacheType,
        Field(description="type of the cached values; a quantized one needs flash attention"),
        Flag(
            "--cache-type-v",
            aliases=("-ctv",),
            unit="-",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_CACHE_TYPE_V",),
            decides_memory=True,
        ),
    ] = "f16"
    flash_attention: Annotated[
        Literal["on", "off", "auto"],
        Field(description="attention without a buffer for all scores"),
        Flag(
            "--flash-attn",
            aliases=("-fa",),
            unit="-",
            source="llamarig: a quantized cache_type_v needs it; llama.cpp has auto",
            env=("LLAMA_ARG_FLASH_ATTN",),
            decides_memory=True,
        ),
    ] = "on"
    cache_ram_mib: Annotated[
        int | None,
        Field(ge=-1, description="RAM for prompts of earlier requests; 0 switches it off, -1 is no limit"),
        Flag(
            "--cache-ram",
            aliases=("-cram",),
            unit="MiB",
            default="8192",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_CACHE_RAM",),
        ),
    ] = None
    context_checkpoints: Annotated[
        int | None,
        Field(ge=0, description="copies of recurrent state that a slot keeps, to go back to"),
        Flag(
            "--ctx-checkpoints",
            aliases=("-ctxcp", "--swa-checkpoints"),
            unit="checkpoints per slot",
            default="32",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_CTX_CHECKPOINTS",),
        ),
    ] = None
    checkpoint_min_step: Annotated[
        int | None,
        Field(ge=0, description="least distance of two checkpoints"),
        Flag(
            "--checkpoint-min-step",
            aliases=("-cms",),
            unit="tokens",
            default="8192",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT",),
        ),
    ] = None
    kv_unified: Annotated[
        bool | None,
        Field(description="one KV cache for all slots"),
        Flag(
            "--kv-unified",
            off="--no-kv-unified",
            aliases=("-kvu", "-no-kvu"),
            unit="-",
            default="off",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_KV_UNIFIED",),
        ),
    ] = None
    slot_prompt_similarity: Annotated[
        float | None,
        Field(ge=0, le=1, description="a slot is chosen that holds at least this much of the prompt already"),
        Flag("--slot-prompt-similarity", aliases=("-sps",), unit="share", default="0.1", source=LLAMA_CPP),
    ] = None
    rope_freq_base: Annotated[
        float | None,
        Field(gt=0, description="base frequency of the rotary position embedding"),
        Flag(
            "--rope-freq-base",
            unit="-",
            default="the model's",
            source=GGUF,
            env=("LLAMA_ARG_ROPE_FREQ_BASE",),
            decides_memory=True,
            digits=9,
        ),
    ] = None
    rope_freq_scale: Annotated[
        float | None,
        Field(gt=0, description="1/N stretches the context N times"),
        Flag(
            "--rope-freq-scale",
            unit="-",
            default="the model's",
            source=GGUF,
            env=("LLAMA_ARG_ROPE_FREQ_SCALE",),
            decides_memory=True,
            digits=9,
        ),
    ] = None
    yarn_scale: Annotated[
        float | None,
        Field(gt=1, description="context beyond the trained one, as a factor of it; switches YaRN on"),
        Flag(
            "--rope-scaling",
            also=("--rope-scale",),
            unit="factor",
            default="the model's",
            source=GGUF,
            env=("LLAMA_ARG_ROPE_SCALING_TYPE", "LLAMA_ARG_ROPE_SCALE"),
            decides_memory=True,
            rendered_by="yarn_arguments",
        ),
    ] = None
    yarn_original_context: Annotated[
        int | None,
        Field(ge=256, description="the trained context"),
        Flag(
            "--yarn-orig-ctx",
            unit="tokens",
            default="the model's",
            source=GGUF,
            env=("LLAMA_ARG_YARN_ORIG_CTX",),
            decides_memory=True,
        ),
    ] = None
    yarn_ext_factor: Annotated[
        float | None,
        Field(description="mix of extrapolation; 0 is interpolation alone"),
        Flag(
            "--yarn-ext-factor",
            unit="-",
            default="the model's",
            source=GGUF,
            env=("LLAMA_ARG_YARN_EXT_FACTOR",),
            digits=9,
        ),
    ] = None
    yarn_attn_factor: Annotated[
        float | None,
        Field(description="scale of the attention's magnitude"),
        Flag(
            "--yarn-attn-factor",
            unit="factor",
            default="the model's",
            source=GGUF,
            env=("LLAMA_ARG_YARN_ATTN_FACTOR",),
            digits=9,
        ),
    ] = None
    yarn_beta_slow: Annotated[
        float | None,
        Field(description="high correction dimension"),
        Flag(
            "--yarn-beta-slow",
            unit="-",
            default="the model's",
            source=GGUF,
            env=("LLAMA_ARG_YARN_BETA_SLOW",),
            digits=9,
        ),
    ] = None
    yarn_beta_fast: Annotated[
        float | None,
        Field(description="low correction dimension"),
        Flag(
            "--yarn-beta-fast",
            unit="-",
            default="the model's",
            source=GGUF,
            env=("LLAMA_ARG_YARN_BETA_FAST",),
            digits=9,
        ),
    ] = None
    cache_reuse: Annotated[
        int | None,
        Field(ge=0, description="shortest moved part of a prompt whose KV cache is shifted in place; 0 is never"),
        Flag("--cache-reuse", unit="tokens", default="0", source=LLAMA_CPP, env=("LLAMA_ARG_CACHE_REUSE",)),
    ] = None
    max_tokens: Annotated[
        int | None,
        Field(ge=1, description="longest answer to a request that sets no length"),
        Flag(
            "--n-predict",
            aliases=("-n", "--predict"),
            unit="tokens",
            default="no limit",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_N_PREDICT",),
        ),
    ] = None
    swa_full: Annotated[
        bool,
        Field(description="a cache of the whole context for layers with a sliding window; takes VRAM"),
        Flag("--swa-full", unit="-", source=LLAMA_CPP, env=("LLAMA_ARG_SWA_FULL",), decides_memory=True),
    ] = False

    @model_validator(mode="after")
    def _values_fit_together(self) -> Context:
        if self.ubatch > self.batch:
            raise ValueError(f"ubatch {self.ubatch} is larger than batch {self.batch}: lower it or raise batch")
        if self.cache_type_v not in _UNQUANTIZED and self.flash_attention == "off":
            raise ValueError("a quantized cache_type_v needs flash attention: set flash_attention to on")
        for field in _NEED_YARN_SCALE:
            if getattr(self, field) is not None and self.yarn_scale is None:
                raise ValueError(f"{field} does nothing without yarn_scale: set both or neither")
        return self
