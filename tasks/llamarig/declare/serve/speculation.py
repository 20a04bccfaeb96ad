"""Speculative decoding: several tokens are guessed cheaply and the model checks them in one pass."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from llamarig.declare.base import Declaration, Fraction
from llamarig.declare.flags import OWNER, Flag
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

_flag = partial(Flag, rendered_by="speculation_arguments")


class Speculation(Declaration):
    """Types of guessing and their sizes; llama.cpp's defaults hold for what is left out.

    The draft model is the model's ``draft``. llama.cpp uses it only where a draft type is named.
    """

    types: Annotated[
        tuple[SpeculationType, ...],
        Field(min_length=1),
        Flag(
            "--spec-type",
            source=OWNER,
            instead={"--spec-default": 'serve.speculation = speculation(types=("ngram-mod",))'},
            rendered_by="speculation_arguments",
        ),
    ]
    """Ways of guessing."""
    draft_max: Annotated[
        PositiveInt | None, Flag("--spec-draft-n-max --draft --draft-n", "tokens", older="--draft-max", default="3")
    ] = None
    """Most tokens that a draft guesses at once."""
    draft_min: Annotated[
        NonNegativeInt | None, Flag("--spec-draft-n-min --draft-n-min", "tokens", older="--draft-min", default="0")
    ] = None
    """Fewest guessed tokens that are checked."""
    draft_p_min: Annotated[
        Fraction | None, Flag("--spec-draft-p-min", "probability", older="--draft-p-min", default="0")
    ] = None
    """Least probability of a guess."""
    draft_gpu_layers: Annotated[
        NonNegativeInt | None,
        Flag("--spec-draft-ngl -ngld --n-gpu-layers-draft", "layers", older="--gpu-layers-draft", default="auto"),
    ] = None
    """Layers of the draft model in VRAM."""
    draft_cache_type_k: Annotated[
        CacheType | None,
        Flag(
            "--spec-draft-type-k -ctkd",
            older="--cache-type-k-draft",
            default="f16",
            env="LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K",
        ),
    ] = None
    """Type of the draft model's cached keys."""
    draft_cache_type_v: Annotated[
        CacheType | None,
        Flag(
            "--spec-draft-type-v -ctvd",
            older="--cache-type-v-draft",
            default="f16",
            env="LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V",
        ),
    ] = None
    """Type of the draft model's cached values."""
    ngram_size: Annotated[
        int | None,
        Field(ge=1, le=1024),
        _flag(
            "--spec-ngram-mod-n-match",
            "tokens",
            also=tuple(f"--spec-{kind}-size-n" for kind in SIZED_NGRAMS),
            default="24 for ngram-mod, else 12",
        ),
    ] = None
    """Length of the n-gram that is looked up."""
    ngram_draft: Annotated[
        int | None,
        Field(ge=1, le=1024),
        _flag(
            "--spec-ngram-simple-size-m",
            "tokens",
            also=("--spec-ngram-map-k-size-m", "--spec-ngram-map-k4v-size-m"),
            default="48",
        ),
    ] = None
    """Tokens guessed after it, for ngram-simple and ngram-map."""
    ngram_min_hits: Annotated[
        PositiveInt | None,
        _flag(
            "--spec-ngram-simple-min-hits",
            "occurrences",
            also=("--spec-ngram-map-k-min-hits", "--spec-ngram-map-k4v-min-hits"),
            default="1",
        ),
    ] = None
    """Occurrences before an n-gram is used, for ngram-simple and ngram-map."""
    ngram_mod_min: Annotated[
        int | None, Field(ge=0, le=1024), _flag("--spec-ngram-mod-n-min", "tokens", default="48")
    ] = None
    """Fewest tokens that ngram-mod guesses."""
    ngram_mod_max: Annotated[
        int | None, Field(ge=0, le=1024), _flag("--spec-ngram-mod-n-max", "tokens", default="64")
    ] = None
    """Most tokens that ngram-mod guesses."""

    @model_validator(mode="after")
    def _every_number_is_read(self) -> Speculation:
        drafts = any(kind.startswith("draft-") for kind in self.types)
        sized = any(kind in SIZED_NGRAMS for kind in self.types)
        mod = "ngram-mod" in self.types
        for field in type(self).model_fields:
            if field == "types":
                continue
            if field.startswith("draft_"):
                is_read = drafts
            elif field.startswith("ngram_mod_"):
                is_read = mod
            else:
                is_read = sized or (mod and field == "ngram_size")
            if getattr(self, field) is not None and not is_read:
                raise ValueError(
                    f"{field} is read by none of the types {', '.join(self.types)}: remove it, or add its type"
                )
        return self
