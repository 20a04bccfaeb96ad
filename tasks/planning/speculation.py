"""From declared speculative decoding to the flags of the build that reads them."""

from __future__ import annotations

from tasks.planning.build_flags import BuildFlags
from tasks.spec.speculation import SIZED_NGRAMS, Speculation


def speculation_arguments(speculation: Speculation, build: BuildFlags) -> list[str]:
    """Flags with their values; the draft model itself is said elsewhere.

    :raises FlagRefusedError: when the build has no such way of guessing
    """
    arguments: list[str] = []
    # Builds from before --spec-type guess with a draft model as soon as one is given, and in no other way.
    if "--spec-type" in build.flags or speculation.types != ("draft-simple",):
        arguments += build.say("speculation", "--spec-type", ",".join(speculation.types))
    drafts = {
        "--spec-draft-n-max": ("--draft-max", speculation.draft_max),
        "--spec-draft-n-min": ("--draft-min", speculation.draft_min),
        "--spec-draft-p-min": ("--draft-p-min", speculation.draft_p_min),
        "--spec-draft-ngl": ("--gpu-layers-draft", speculation.draft_gpu_layers),
        "--spec-draft-type-k": ("--cache-type-k-draft", speculation.draft_cache_type_k),
        "--spec-draft-type-v": ("--cache-type-v-draft", speculation.draft_cache_type_v),
    }
    for flag, (earlier, value) in drafts.items():
        if value is not None:
            said = f"{value:g}" if isinstance(value, float) else str(value)
            # Today's builds still list --draft-max and --draft-min, and refuse them.
            arguments += build.say("speculation", flag if flag in build.flags else earlier, said)
    for kind in speculation.types:
        if kind in SIZED_NGRAMS:
            arguments += _said(
                build,
                {
                    f"--spec-{kind}-size-n": speculation.ngram_size,
                    f"--spec-{kind}-size-m": speculation.ngram_draft,
                    f"--spec-{kind}-min-hits": speculation.ngram_min_hits,
                },
            )
        if kind == "ngram-mod":
            arguments += _said(
                build,
                {
                    "--spec-ngram-mod-n-match": speculation.ngram_size,
                    "--spec-ngram-mod-n-min": speculation.ngram_mod_min,
                    "--spec-ngram-mod-n-max": speculation.ngram_mod_max,
                },
            )
    return arguments


def _said(build: BuildFlags, values: dict[str, int | None]) -> list[str]:
    arguments: list[str] = []
    for flag, value in values.items():
        if value is not None:
            arguments += build.say("speculation", flag, str(value))
    return arguments
