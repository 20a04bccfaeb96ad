"""From declared speculative decoding to the flags of the build that serves it."""

from __future__ import annotations

from llamarig.declare.serve.speculation import SIZED_NGRAMS, Speculation
from llamarig.render.build_flags import BuildFlags
from llamarig.render.field_arguments import simple_arguments


def speculation_arguments(speculation: Speculation, build: BuildFlags) -> list[str]:
    """The flags of speculative decoding; the draft model's file is rendered with the model's files.

    :raises FlagRefusedError: when the build has no such type of speculation
    """
    arguments: list[str] = []
    # Builds from before --spec-type guess with a draft model as soon as there is one, and in no other way.
    if "--spec-type" in build.flags or speculation.types != ("draft-simple",):
        arguments += build.option("speculation.types", "--spec-type", ",".join(speculation.types))
    arguments += simple_arguments(build, speculation, "speculation.")
    for kind in speculation.types:
        if kind in SIZED_NGRAMS:
            sizes = {"size-n": "ngram_size", "size-m": "ngram_draft", "min-hits": "ngram_min_hits"}
        elif kind == "ngram-mod":
            sizes = {"n-match": "ngram_size", "n-min": "ngram_mod_min", "n-max": "ngram_mod_max"}
        else:
            continue
        for suffix, field in sizes.items():
            if (value := getattr(speculation, field)) is not None:
                arguments += build.option(f"speculation.{field}", f"--spec-{kind}-{suffix}", str(value))
    return arguments
