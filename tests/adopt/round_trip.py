"""The arguments of a case as they were given and as its declaration renders them, for programs of the pinned build.

What the pinned build cannot read (flags of other eras) and what a test has not got (files, addresses, cards of another
kind) is left out on both sides; tests/adopt/test_nothing_is_lost.py checks that each of these is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamarig.adopt.adopted_model import Known, adopted_model, names_a_model
from llamarig.adopt.input_format import launches_of_text
from llamarig.adopt.launch import LLAMA_CPP_PYTHON, Launch
from llamarig.adopt.older_flags import RENAMED
from llamarig.adopt.options import Given, given_options
from llamarig.adopt.pinned_flags import PINNED_OPTIONS
from llamarig.adopt.python_server import as_llama_server
from llamarig.declare.model import Model
from llamarig.declare.refused_flags import REFUSED_FLAGS
from llamarig.declare.risky_flags import risky_flags
from llamarig.placement.dry_run import memory_arguments
from llamarig.render.server_arguments import ModelFiles, server_arguments

from tests.render.golden_units import PINNED

FILES = {
    "--model",
    "--hf-repo",
    "--hf-file",
    "--mmproj",
    "--spec-draft-model",
    "--lora",
    "--lora-scaled",
    "--grammar-file",
}
ADDRESS = {"--host", "--port", "--reuse-port", "--api-key", "--api-key-file", "--ssl-key-file", "--ssl-cert-file"}
ADDRESS |= {"--cors-origins", "--cors-credentials"}
MACHINE = {
    "--device",
    "--numa",
    "--cpu-mask",
    "--main-gpu",
    "--threads",
    "--threads-batch",
    "--prio",
    "--poll",
    "--verbose",
}
MACHINE |= {"--verbosity", "--threads-http", "--override-kv", "--ui", "--load-mode", "--control-vector-layer-range"}
OF_A_DRAFT = {
    "--spec-draft-n-max",
    "--spec-draft-n-min",
    "--spec-draft-p-min",
    "--spec-draft-ngl",
    "--spec-draft-type-k",
}
OF_A_DRAFT |= {"--spec-draft-type-v", "--draft", "--draft-min"}
"""Options whose effect needs what a test has not got, or is the same on every machine."""
LAYERS = 48
"""Of the model that all cases are measured with."""
PLACEMENT = {"--gpu-layers", "--tensor-split", "--override-tensor", "--cpu-moe", "--n-cpu-moe"}
PLACEMENT |= {"--fit", "--fit-target", "--fit-ctx", "--split-mode"}
LIMITS = {"--ctx-size": 4096, "--batch-size": 512, "--ubatch-size": 512}
"""Of a server that is really started."""


@dataclass(frozen=True)
class Case:
    """One server: as it was given, in the pinned build's flags, and its declaration."""

    name: str
    original: tuple[str, ...]
    model: Model

    @property
    def declared(self) -> tuple[str, ...]:
        """The arguments of the declaration."""
        return tuple(server_arguments(self.model, ModelFiles("/m"), PINNED))


def cases(paths: Sequence[Path]) -> Iterator[Case]:
    """Every server of every case, but those whose flags are not llama-server's."""
    for path in paths:
        found = launches_of_text(path.read_text(), path.name, lambda name: None)
        for number, launch in enumerate(filter(names_a_model, found.launches)):
            adopted = adopted_model(launch, Known(layers=LAYERS))
            assert adopted.model is not None, adopted.notes
            yield Case(f"{path.name}-{number}", tuple(_pinned(launch)), adopted.model)


def _pinned(launch: Launch) -> Iterator[str]:
    """The words of a launch that the pinned build reads, and the defaults of the build that they were written for."""
    words = as_llama_server(launch.words)[0] if launch.program == LLAMA_CPP_PYTHON else launch.words
    options, _ = given_options(words, launch.environment)
    if launch.old:
        yield from ("--parallel", "1", *([] if _gives(options, "--gpu-layers") else ["--gpu-layers", "0"]))
    for given in options:
        for flag, *values in _renamed(given):
            option = PINNED_OPTIONS.get(flag)
            values = ["on"] if option and option.name == "--flash-attn" and not values else values
            is_left_out = flag in REFUSED_FLAGS or risky_flags([flag]) or values == ["row"]
            if option is not None and option.values == len(values) and not is_left_out:
                yield from (flag, *values)


def _gives(options: Sequence[Given], name: str) -> bool:
    return any(given.flag in PINNED_OPTIONS and PINNED_OPTIONS[given.flag].name == name for given in options)


def _renamed(given: Given) -> Iterator[tuple[str, ...]]:
    words = RENAMED.get(given.flag)
    if words is None:
        yield (given.flag, *given.values)
        return
    for at in range(0, len(words), 2):
        flag, *value = words[at : at + 2]
        yield (flag, *(value or given.values))


def options_of(words: Sequence[str]) -> list[tuple[str, ...]]:
    """The options with their values, by the option's name, or its negation."""
    found: list[tuple[str, ...]] = []
    at = 0
    while at < len(words):
        option = PINNED_OPTIONS[words[at]]
        end = at + 1 + option.values
        negated = option.negation and words[at].startswith(("--no-", "-no-", "-nk", "-nocb"))
        found.append((option.negation if negated else option.name, *words[at + 1 : end]))
        at = end
    return found


def server_words(words: Sequence[str]) -> list[str]:
    """What a llama-server on a small machine is started with, for a tiny model."""
    kept: list[str] = []
    drafts = any("draft-" in value for name, *values in options_of(words) for value in values if name == "--spec-type")
    for name, *values in options_of(words):
        option = PINNED_OPTIONS[name].name
        if option in FILES | ADDRESS | MACHINE | OF_A_DRAFT | PLACEMENT or (drafts and option == "--spec-type"):
            continue
        if option in LIMITS:
            values = [str(min(int(values[0]) or LIMITS[option], LIMITS[option]))]
        kept += [name, *values]
    return kept if "--ctx-size" in kept else [*kept, "--ctx-size", str(LIMITS["--ctx-size"])]


def memory_words(words: Sequence[str]) -> list[str]:
    """What decides memory, for llama-fit-params, which has one slot by default where llama-server has four."""
    plain = [word for name, *values in options_of(words) for word in (_RENDERED.get(name, name), *values)]
    # Without a context llama.cpp takes the model's own, and a declaration what its owner says.
    kept = [option for option in options_of(memory_arguments(plain)) if option != ("--ctx-size", "0")]
    found = [word for name, *values in kept if name not in MACHINE for word in (name, *values)]
    given = {name for name, *_ in kept}
    found += ["--cpu-moe"] * ("--cpu-moe" in words)
    found += [] if "--parallel" in given else ["--parallel", "4"]
    return found if "--ctx-size" in given else [*found, "--ctx-size", "4096"]


_RENDERED = {"--gpu-layers": "--n-gpu-layers"}
"""Name of an option -> the spelling that a declaration renders."""
