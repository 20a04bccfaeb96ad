"""Sampling of requests that do not set it themselves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llamarig.declare.base import Declaration
from llamarig.declare.flags import LLAMA_CPP_OR_GGUF, Flag

Sampler = Literal["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
"""llama.cpp's names in its own order (common/sampling.cpp, pinned commit)."""


class Sampling(Declaration):
    """Sampling defaults, for requests that do not set their own; llama.cpp's defaults hold for what is left out."""

    temperature: Annotated[
        float | None, Field(ge=0), Flag("--temp --temperature", default="0.8", source=LLAMA_CPP_OR_GGUF)
    ] = None
    """0 always takes the most likely token."""
    top_k: Annotated[int | None, Field(ge=0), Flag("--top-k", "tokens", default="40", source=LLAMA_CPP_OR_GGUF)] = None
    """0 switches it off."""
    top_p: Annotated[
        float | None, Field(ge=0, le=1), Flag("--top-p", "probability", default="0.95", source=LLAMA_CPP_OR_GGUF)
    ] = None
    """1 switches it off."""
    min_p: Annotated[
        float | None, Field(ge=0, le=1), Flag("--min-p", "share", default="0.05", source=LLAMA_CPP_OR_GGUF)
    ] = None
    """Share of the most likely token's probability; 0 switches it off."""
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2), Flag("--presence-penalty", default="0")] = None
    """For tokens that have occurred."""
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2), Flag("--frequency-penalty", default="0")] = None
    """For tokens by how often they have occurred."""
    repeat_penalty: Annotated[
        float | None, Field(gt=0), Flag("--repeat-penalty", default="1", source=LLAMA_CPP_OR_GGUF)
    ] = None
    """1 switches it off."""
    repeat_last_n: Annotated[
        int | None, Field(ge=-1), Flag("--repeat-last-n", "tokens", default="64", source=LLAMA_CPP_OR_GGUF)
    ] = None
    """How far back the penalties look; -1 is the whole context."""
    typical_p: Annotated[float | None, Field(gt=0, le=1), Flag("--typical-p --typical", "probability", default="1")] = (
        None
    )
    """1 switches it off."""
    top_n_sigma: Annotated[float | None, Flag("--top-n-sigma --top-nsigma", "standard deviations", default="-1")] = None
    """-1 switches it off."""
    xtc_probability: Annotated[
        float | None, Field(ge=0, le=1), Flag("--xtc-probability", "probability", default="0", source=LLAMA_CPP_OR_GGUF)
    ] = None
    """0 switches it off."""
    xtc_threshold: Annotated[
        float | None, Field(ge=0, le=1), Flag("--xtc-threshold", "probability", default="0.1", source=LLAMA_CPP_OR_GGUF)
    ] = None
    """More than 0.5 switches it off."""
    dry_multiplier: Annotated[float | None, Field(ge=0), Flag("--dry-multiplier", default="0")] = None
    """0 switches it off."""
    dry_base: Annotated[float | None, Field(ge=0), Flag("--dry-base", default="1.75")] = None
    """Growth of the penalty with each token of a repetition."""
    dry_allowed_length: Annotated[int | None, Field(ge=0), Flag("--dry-allowed-length", "tokens", default="2")] = None
    """Longest repetition without a penalty."""
    dry_penalty_last_n: Annotated[int | None, Field(ge=-1), Flag("--dry-penalty-last-n", "tokens", default="64")] = None
    """How far back repetitions are looked for; -1 is the whole context."""
    dynatemp_range: Annotated[float | None, Field(ge=0), Flag("--dynatemp-range", default="0")] = None
    """0 switches dynamic temperature off."""
    dynatemp_exponent: Annotated[float | None, Field(ge=0), Flag("--dynatemp-exp", default="1")] = None
    """How the entropy of a token becomes its temperature."""
    samplers: Annotated[tuple[Sampler, ...], Flag("--samplers", default="all", source=LLAMA_CPP_OR_GGUF)] = ()
    """Which samplers, in this order."""
    seed: Annotated[int | None, Field(ge=-1), Flag("--seed -s", default="-1")] = None
    """-1 is a new one for each request."""
