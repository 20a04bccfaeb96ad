"""Builds of llama.cpp in which users have found a fault that concerns a declared model, with the thread about it.

A row says what its thread states, and no more: builds between the ones that were tried count as bad, and a fault
without a known end goes on. A release is compared by its build number, which is known once it is built from git.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llamarig.declare.build import Build
from llamarig.declare.model import Model
from llamarig.lints.lint import Lint


@dataclass(frozen=True)
class KnownBadBuild:
    """A range of build numbers with a fault, and what it concerns; an empty field stands for everything.

    ``last``: the last build known to be bad; None if no good one after ``first`` is known. ``models`` and ``cards``:
    regular expressions, of a repository's name and of a card's name or architecture (sm_61).
    """

    first: int
    last: int | None
    symptom: str
    issue: int
    """Number of the thread in ggml-org/llama.cpp."""
    backends: frozenset[str] = frozenset()
    models: str = ""
    cards: str = ""
    split_mode: str = ""
    cache_types: frozenset[str] = frozenset()
    speculation: str = ""
    avoided_by: str = ""
    """A variable that avoids it, if declared in the model's environment."""

    def concerns(self, model: Model, build: Build, cards: Iterable[str]) -> bool:
        """Whether it concerns a model on a box with these cards."""
        serve = model.serve
        types = serve.speculation.types if serve.speculation else ()
        return all(
            (
                not self.backends or build.backend in self.backends,
                re.search(self.models, model.repo, re.IGNORECASE),
                not self.cards or any(re.search(self.cards, card, re.IGNORECASE) for card in cards),
                self.split_mode in ("", serve.split_mode),
                not self.cache_types or self.cache_types & {serve.cache_type_k, serve.cache_type_v},
                not self.speculation or self.speculation in types,
                not self.avoided_by or self.avoided_by not in serve.environment,
            )
        )

    @property
    def builds(self) -> str:
        """The range, as llama.cpp names its releases."""
        if self.last is None:
            return f"b{self.first} and later"
        return f"b{self.first}" if self.last == self.first else f"b{self.first} to b{self.last}"


_CUDA, _VULKAN = frozenset({"cuda"}), frozenset({"vulkan"})

KNOWN_BAD_BUILDS = (
    KnownBadBuild(
        *(6841, 6841, '"illegal memory access" at any request on two Tesla P40', 16953),
        backends=_CUDA,
        cards=r"P40|sm_61",
    ),
    KnownBadBuild(7371, 7393, "models (gpt-oss and others) seem not to see parts of their prompt", 18004),
    KnownBadBuild(7668, None, "garbage after longer prompts", 18835, backends=_VULKAN, models=r"GLM-4\.7"),
    KnownBadBuild(7707, 7707, "a crash of Qwen3-Next files in the older format", 18761, models=r"Qwen3-(Coder-)?Next"),
    KnownBadBuild(8184, None, "gibberish on several Intel Arc A770", 20097, backends=_VULKAN, cards=r"A770"),
    KnownBadBuild(
        *(
            8391,
            None,
            "a crash at the first prompt; GGML_VK_ALLOW_GRAPHICS_QUEUE=1 in the environment avoids it",
            21440,
        ),
        backends=_VULKAN,
        cards=r"7900 XTX",
        avoided_by="GGML_VK_ALLOW_GRAPHICS_QUEUE",
    ),
    KnownBadBuild(8734, 8740, "gibberish on GTX 10xx cards", 21721, backends=_CUDA, cards=r"GTX 10|sm_61"),
    KnownBadBuild(
        *(9868, 9890, "slower generation with a q4_0 KV cache on RTX 50xx cards", 25422),
        backends=_CUDA,
        cards=r"RTX 50|sm_120",
        cache_types=frozenset({"q4_0"}),
    ),
    KnownBadBuild(9935, 9935, "15 to 20 % slower with an MTP head than b9235", 25489, speculation="draft-mtp"),
    KnownBadBuild(
        10054, 10054, "an abort (GGML_BACKEND_SPLIT_AXIS_UNKNOWN)", 25829, backends=_CUDA, split_mode="tensor"
    ),
    KnownBadBuild(
        *(10441, None, "an abort (GGML_BACKEND_SPLIT_AXIS_UNKNOWN) with an iq4_nl KV cache", 27116),
        backends=_CUDA,
        split_mode="tensor",
        cache_types=frozenset({"iq4_nl"}),
    ),
    KnownBadBuild(10523, 10525, '"illegal memory access" on two cards', 27430, backends=_CUDA, split_mode="tensor"),
)


def known_bad_lints(model: Model, build: Build, number: int, cards: Iterable[str]) -> Iterator[Lint]:
    """A warning for each known fault of the build that a model is served with.

    :param number: build number of the release; 0 if it is not known
    :param cards: names of the box's cards
    """
    named = [*cards, *(f"sm_{architecture.partition('-')[0].rstrip('af')}" for architecture in build.architectures)]
    for bad in KNOWN_BAD_BUILDS:
        if bad.first <= number and (bad.last is None or number <= bad.last) and bad.concerns(model, build, named):
            yield Lint(
                "known-bad-build",
                f"llama.cpp b{number} is among the builds with a known fault ({bad.builds}): {bad.symptom} "
                f"(https://github.com/ggml-org/llama.cpp/issues/{bad.issue})",
                "pin another commit" + (" if the thread still has no fix" if bad.last is None else ""),
            )
