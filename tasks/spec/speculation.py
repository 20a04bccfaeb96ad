"""Speculative decoding: several tokens are guessed cheaply and checked by the model in one pass."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks.spec.base import Declaration
from tasks.spec.kv_cache import CacheType

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
"""llama.cpp's names (common/speculative.cpp of the pinned commit). `ngram-mod` is what its --spec-default takes."""

NEED_A_DRAFT = ("draft-simple", "draft-eagle3", "draft-dflash", "draft-dspark")
"""Types that guess with a model of their own; `draft-mtp` uses the model's own extra layer where it has one."""
SIZED_NGRAMS = ("ngram-simple", "ngram-map-k", "ngram-map-k4v")


class Speculation(Declaration):
    """Which ways of guessing, all lengths in tokens; llama.cpp's own defaults where left out.

    The draft model itself is the model's ``draft``. Without a draft type named, llama.cpp does not use it.
    """

    types: tuple[SpeculationType, ...] = Field(min_length=1)
    draft_max: int | None = Field(default=None, ge=1, description="most tokens a draft guesses at once; default 3")
    draft_min: int | None = Field(default=None, ge=0, description="fewest worth checking; default 0")
    draft_p_min: float | None = Field(default=None, ge=0, le=1, description="least probability of a guess; default 0")
    draft_gpu_layers: int | None = Field(default=None, ge=0, description="layers of the draft in VRAM; default auto")
    draft_cache_type_k: CacheType | None = Field(default=None, description="default f16")
    draft_cache_type_v: CacheType | None = Field(default=None, description="default f16")
    ngram_size: int | None = Field(
        default=None, ge=1, le=1024, description="length of the looked-up n-gram; default 24 for ngram-mod, else 12"
    )
    ngram_draft: int | None = Field(
        default=None, ge=1, le=1024, description="length of what follows it, for simple and map; default 48"
    )
    ngram_min_hits: int | None = Field(default=None, ge=1, description="sightings before use, for simple and map")
    ngram_mod_min: int | None = Field(default=None, ge=0, le=1024, description="fewest tokens ngram-mod guesses")
    ngram_mod_max: int | None = Field(default=None, ge=0, le=1024, description="most tokens ngram-mod guesses")

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
        for field, used in read.items():
            if getattr(self, field) is not None and not used:
                raise ValueError(
                    f"{field} is read by none of the types {', '.join(self.types)}: remove it, or add its type"
                )
        return self
