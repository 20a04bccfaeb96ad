"""Sampling of requests that do not set it themselves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llamarig.declare.base import Declaration
from llamarig.declare.flags import LLAMA_CPP, LLAMA_CPP_OR_GGUF, Flag

Sampler = Literal["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
"""llama.cpp's names in its own order (common/sampling.cpp, pinned commit)."""


class Sampling(Declaration):
    """Sampling defaults, for requests that do not set their own; llama.cpp's defaults hold for what is left out."""

    temperature: Annotated[
        float | None,
        Field(ge=0, description="0 always takes the most likely token"),
        Flag(
            "--temp",
            aliases=("--temperature",),
            unit="-",
            default="0.8",
            source=LLAMA_CPP_OR_GGUF,
            env=("LLAMA_ARG_TEMPERATURE",),
        ),
    ] = None
    top_k: Annotated[
        int | None,
        Field(ge=0, description="0 switches it off"),
        Flag("--top-k", unit="tokens", default="40", source=LLAMA_CPP_OR_GGUF, env=("LLAMA_ARG_TOP_K",)),
    ] = None
    top_p: Annotated[
        float | None,
        Field(ge=0, le=1, description="1 switches it off"),
        Flag("--top-p", unit="probability", default="0.95", source=LLAMA_CPP_OR_GGUF, env=("LLAMA_ARG_TOP_P",)),
    ] = None
    min_p: Annotated[
        float | None,
        Field(ge=0, le=1, description="share of the most likely token's probability; 0 switches it off"),
        Flag("--min-p", unit="share", default="0.05", source=LLAMA_CPP_OR_GGUF, env=("LLAMA_ARG_MIN_P",)),
    ] = None
    presence_penalty: Annotated[
        float | None,
        Field(ge=-2, le=2, description="for tokens that have occurred"),
        Flag("--presence-penalty", unit="-", default="0", source=LLAMA_CPP, env=("LLAMA_ARG_PRESENCE_PENALTY",)),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        Field(ge=-2, le=2, description="for tokens by how often they have occurred"),
        Flag("--frequency-penalty", unit="-", default="0", source=LLAMA_CPP, env=("LLAMA_ARG_FREQUENCY_PENALTY",)),
    ] = None
    repeat_penalty: Annotated[
        float | None,
        Field(gt=0, description="1 switches it off"),
        Flag("--repeat-penalty", unit="-", default="1", source=LLAMA_CPP_OR_GGUF, env=("LLAMA_ARG_REPEAT_PENALTY",)),
    ] = None
    repeat_last_n: Annotated[
        int | None,
        Field(ge=-1, description="how far back the penalties look; -1 is the whole context"),
        Flag("--repeat-last-n", unit="tokens", default="64", source=LLAMA_CPP_OR_GGUF),
    ] = None
    typical_p: Annotated[
        float | None,
        Field(gt=0, le=1, description="1 switches it off"),
        Flag("--typical-p", aliases=("--typical",), unit="probability", default="1", source=LLAMA_CPP),
    ] = None
    top_n_sigma: Annotated[
        float | None,
        Field(description="-1 switches it off"),
        Flag("--top-n-sigma", aliases=("--top-nsigma",), unit="standard deviations", default="-1", source=LLAMA_CPP),
    ] = None
    xtc_probability: Annotated[
        float | None,
        Field(ge=0, le=1, description="0 switches it off"),
        Flag("--xtc-probability", unit="probability", default="0", source=LLAMA_CPP_OR_GGUF),
    ] = None
    xtc_threshold: Annotated[
        float | None,
        Field(ge=0, le=1, description="more than 0.5 switches it off"),
        Flag("--xtc-threshold", unit="probability", default="0.1", source=LLAMA_CPP_OR_GGUF),
    ] = None
    dry_multiplier: Annotated[
        float | None,
        Field(ge=0, description="0 switches it off"),
        Flag("--dry-multiplier", unit="-", default="0", source=LLAMA_CPP),
    ] = None
    dry_base: Annotated[
        float | None,
        Field(ge=0, description="growth of the penalty with each token of a repetition"),
        Flag("--dry-base", unit="-", default="1.75", source=LLAMA_CPP),
    ] = None
    dry_allowed_length: Annotated[
        int | None,
        Field(ge=0, description="longest repetition without a penalty"),
        Flag("--dry-allowed-length", unit="tokens", default="2", source=LLAMA_CPP),
    ] = None
    dry_penalty_last_n: Annotated[
        int | None,
        Field(ge=-1, description="how far back repetitions are looked for; -1 is the whole context"),
        Flag("--dry-penalty-last-n", unit="tokens", default="64", source=LLAMA_CPP),
    ] = None
    dynatemp_range: Annotated[
        float | None,
        Field(ge=0, description="0 switches dynamic temperature off"),
        Flag("--dynatemp-range", unit="-", default="0", source=LLAMA_CPP),
    ] = None
    dynatemp_exponent: Annotated[
        float | None,
        Field(ge=0, description="how the entropy of a token becomes its temperature"),
        Flag("--dynatemp-exp", unit="-", default="1", source=LLAMA_CPP),
    ] = None
    samplers: Annotated[
        tuple[Sampler, ...],
        Field(description="which samplers, in this order"),
        Flag("--samplers", unit="-", default="all", source=LLAMA_CPP_OR_GGUF),
    ] = ()
    seed: Annotated[
        int | None,
        Field(ge=-1, description="-1 is a new one for each request"),
        Flag("--seed", aliases=("-s",), unit="-", default="-1", source=LLAMA_CPP),
    ] = None
