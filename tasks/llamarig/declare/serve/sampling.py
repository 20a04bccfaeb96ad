"""Sampling of requests that do not set it themselves."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from llamarig.declare.base import Declaration, Fraction
from llamarig.declare.flags import LLAMA_CPP_OR_GGUF, Flag

_gguf_flag = partial(Flag, source=LLAMA_CPP_OR_GGUF)

Sampler = Literal["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
"""llama.cpp's names in its own order (common/sampling.cpp, pinned commit)."""


class Sampling(Declaration):
    """Sampling defaults, for requests that do not set their own; llama.cpp's defaults hold for what is left out."""

    temperature: Annotated[NonNegativeFloat | None, _gguf_flag("--temp --temperature", default="0.8")] = None
    """0 always takes the most likely token."""
    top_k: Annotated[NonNegativeInt | None, _gguf_flag("--top-k", "tokens", default="40")] = None
    """0 switches it off."""
    top_p: Annotated[Fraction | None, _gguf_flag("--top-p", "probability", default="0.95")] = None
    """1 switches it off."""
    min_p: Annotated[Fraction | None, _gguf_flag("--min-p", "share", default="0.05")] = None
    """Share of the most likely token's probability; 0 switches it off."""
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2), Flag("--presence-penalty", default="0")] = None
    """For tokens that have occurred."""
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2), Flag("--frequency-penalty", default="0")] = None
    """For tokens by how often they have occurred."""
    repeat_penalty: Annotated[PositiveFloat | None, _gguf_flag("--repeat-penalty", default="1")] = None
    """1 switches it off."""
    repeat_last_n: Annotated[NonNegativeInt | None, _gguf_flag("--repeat-last-n", "tokens", default="64")] = None
    """How far back the penalties look; 0 switches them off."""
    typical_p: Annotated[float | None, Field(gt=0, le=1), Flag("--typical-p --typical", "probability", default="1")] = (
        None
    )
    """1 switches it off."""
    top_n_sigma: Annotated[float | None, Flag("--top-n-sigma --top-nsigma", "standard deviations", default="-1")] = None
    """-1 switches it off."""
    xtc_probability: Annotated[Fraction | None, _gguf_flag("--xtc-probability", "probability", default="0")] = None
    """0 switches it off."""
    xtc_threshold: Annotated[Fraction | None, _gguf_flag("--xtc-threshold", "probability", default="0.1")] = None
    """More than 0.5 switches it off."""
    dry_multiplier: Annotated[NonNegativeFloat | None, Flag("--dry-multiplier", default="0")] = None
    """0 switches it off."""
    dry_base: Annotated[NonNegativeFloat | None, Flag("--dry-base", default="1.75")] = None
    """Growth of the penalty with each token of a repetition."""
    dry_allowed_length: Annotated[NonNegativeInt | None, Flag("--dry-allowed-length", "tokens", default="2")] = None
    """Longest repetition without a penalty."""
    dry_penalty_last_n: Annotated[NonNegativeInt | None, Flag("--dry-penalty-last-n", "tokens", default="64")] = None
    """How far back repetitions are looked for; 0 switches it off."""
    dynatemp_range: Annotated[NonNegativeFloat | None, Flag("--dynatemp-range", default="0")] = None
    """0 switches dynamic temperature off."""
    dynatemp_exponent: Annotated[NonNegativeFloat | None, Flag("--dynatemp-exp", default="1")] = None
    """How the entropy of a token becomes its temperature."""
    samplers: Annotated[tuple[Sampler, ...], _gguf_flag("--samplers", default="all")] = ()
    """Which samplers, in this order."""
    seed: Annotated[int | None, Field(ge=-1), Flag("--seed -s", default="-1")] = None
    """-1 is a new one for each request."""
