"""Speculative decoding: several tokens are guessed cheaply and the model checks them in one pass."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from llamarig.declare.base import Declaration
from llamarig.declare.flags import LLAMA_CPP, OWNER, Flag
from llamarig.declare.kv_cache import CacheType

SpeculationType = Literal[
    "draft-simple",
    "draft-eagle3",
    "draft-mtp",
    "draft-dflash",
    "draft-dspark",
    "ngram-cache",
    "ngram-simple",
    "ngram-map-k",
    "ngram-map-k4v",
    "ngram-mod",
]
"""llama.cpp's names (common/speculative.cpp, pinned commit). `ngram-mod` is what its --spec-default takes."""

NEED_A_DRAFT = ("draft-simple", "draft-eagle3", "draft-dflash", "draft-dspark")
"""Types that guess with a model of their own; `draft-mtp` uses the model's own extra layer where it has one."""
SIZED_NGRAMS = ("ngram-simple", "ngram-map-k", "ngram-map-k4v")


class Speculation(Declaration):
    """Types of guessing and their sizes; llama.cpp's defaults hold for what is left out.

    The draft model is the model's ``draft``. llama.cpp uses it only where a draft type is named.
    """

    types: Annotated[
        tuple[SpeculationType, ...],
        Field(min_length=1, description="ways of guessing"),
        Flag(
            "--spec-type",
            unit="-",
            source=OWNER,
            env=("LLAMA_ARG_SPEC_TYPE",),
            instead={"--spec-default": 'serve.speculation = speculation(types=("ngram-mod",))'},
            rendered_by="speculation_arguments",
        ),
    ]
    draft_max: Annotated[
        int | None,
        Field(ge=1, description="most tokens that a draft guesses at once"),
        Flag(
            "--spec-draft-n-max",
            older="--draft-max",
            aliases=("--draft", "--draft-n"),
            unit="tokens",
            default="3",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_SPEC_DRAFT_N_MAX", "LLAMA_ARG_DRAFT_MAX"),
        ),
    ] = None
    draft_min: Annotated[
        int | None,
        Field(ge=0, description="fewest guessed tokens that are checked"),
        Flag(
            "--spec-draft-n-min",
            older="--draft-min",
            aliases=("--draft-n-min",),
            unit="tokens",
            default="0",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_SPEC_DRAFT_N_MIN", "LLAMA_ARG_DRAFT_MIN"),
        ),
    ] = None
    draft_p_min: Annotated[
        float | None,
        Field(ge=0, le=1, description="least probability of a guess"),
        Flag(
            "--spec-draft-p-min",
            older="--draft-p-min",
            unit="probability",
            default="0",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_SPEC_DRAFT_P_MIN",),
        ),
    ] = None
    draft_gpu_layers: Annotated[
        int | None,
        Field(ge=0, description="layers of the draft model in VRAM"),
        Flag(
            "--spec-draft-ngl",
            older="--gpu-layers-draft",
            aliases=("-ngld", "--n-gpu-layers-draft"),
            unit="layers",
            default="auto",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_N_GPU_LAYERS_DRAFT",),
        ),
    ] = None
    draft_cache_type_k: Annotated[
        CacheType | None,
        Field(description="type of the draft model's cached keys"),
        Flag(
            "--spec-draft-type-k",
            older="--cache-type-k-draft",
            aliases=("-ctkd",),
            unit="-",
            default="f16",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K",),
        ),
    ] = None
    draft_cache_type_v: Annotated[
        CacheType | None,
        Field(description="type of the draft model's cached values"),
        Flag(
            "--spec-draft-type-v",
            older="--cache-type-v-draft",
            aliases=("-ctvd",),
            unit="-",
            default="f16",
            source=LLAMA_CPP,
            env=("LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V",),
        ),
    ] = None
    ngram_size: Annotated[
        int | None,
        Field(ge=1, le=1024, description="length of the n-gram that is looked up"),
        Flag(
            "--spec-ngram-mod-n-match",
            also=tuple(f"--spec-{kind}-size-n" for kind in SIZED_NGRAMS),
            unit="tokens",
            default="24 for ngram-mod, else 12",
            source=LLAMA_CPP,
            rendered_by="speculation_arguments",
        ),
    ] = None
    ngram_draft: Annotated[
        int | None,
        Field(ge=1, le=1024, description="tokens guessed after it, for ngram-simple and ngram-map"),
        Flag(
            "--spec-ngram-simple-size-m",
            also=("--spec-ngram-map-k-size-m", "--spec-ngram-map-k4v-size-m"),
            unit="tokens",
            default="48",
            source=LLAMA_CPP,
            rendered_by="speculation_arguments",
        ),
    ] = None
    ngram_min_hits: Annotated[
        int | None,
        Field(ge=1, description="occurrences before an n-gram is used, for ngram-simple and ngram-map"),
        Flag(
            "--spec-ngram-simple-min-hits",
            also=("--spec-ngram-map-k-min-hits", "--spec-ngram-map-k4v-min-hits"),
            unit="occurrences",
            default="1",
            source=LLAMA_CPP,
            rendered_by="speculation_arguments",
        ),
    ] = None
    ngram_mod_min: Annotated[
        int | None,
        Field(ge=0, le=1024, description="fewest tokens that ngram-mod guesses"),
        Flag(
            "--spec-ngram-mod-n-min",
            unit="tokens",
            default="48",
            source=LLAMA_CPP,
            rendered_by="speculation_arguments",
        ),
    ] = None
    ngram_mod_max: Annotated[
        int | None,
        Field(ge=0, le=1024, description="most tokens that ngram-mod guesses"),
        Flag(
            "--spec-ngram-mod-n-max",
            unit="tokens",
            default="64",
            source=LLAMA_CPP,
            rendered_by="speculation_arguments",
        ),
    ] = None

    @model_validator(mode="after")
    def _every_number_is_read(self) -> Speculation:
        drafts = any(kind.startswith("draft-") for kind in self.types)
        sized = any(kind in SIZED_NGRAMS for kind in self.types)
        mod = "ngram-mod" in self.types
        read = {
            "draft_max": drafts,
            "draft_min": drafts,
            "draft_p_min": drafts,
            "draft_gpu_layers": drafts,
            "draft_cache_type_k": drafts,
            "draft_cache_type_v": drafts,
            "ngram_size": sized or mod,
            "ngram_draft": sized,
            "ngram_min_hits": sized,
            "ngram_mod_min": mod,
            "ngram_mod_max": mod,
        }
        for field, is_read in read.items():
            if getattr(self, field) is not None and not is_read:
                raise ValueError(
                    f"{field} is read by none of the types {', '.join(self.types)}: remove it, or add its type"
                )
        return self
