"""A build with a known fault is a warning for the models that the fault concerns."""

from __future__ import annotations

from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.build import Build
from llamarig.declare.model import Model
from llamarig.lints.known_bad_builds import KNOWN_BAD_BUILDS, known_bad_lints

CUDA = Build(name="b", backend="cuda", architectures=("61-real", "89-real"), cuda_toolkit="/usr")
VULKAN = Build(name="b", backend="vulkan")


def model(repo: str = "o/r", **serve: Any) -> Model:
    declared = d.model(name="m", repo=repo, quant="Q6_K", build="b", serve=d.serve(port=1, context=4096, **serve))
    return Model.model_validate(declared)


def issues(number: int, of: Model, build: Build = CUDA, *cards: str) -> list[int]:
    """Threads that a build, a model and a box's cards are warned of."""
    return [int(lint.consequence.rpartition("/")[2].rstrip(")")) for lint in known_bad_lints(of, build, number, cards)]


@pytest.mark.parametrize(
    ("number", "declared", "build", "cards", "thread"),
    [
        (6841, model(), CUDA, (), 16953),
        (7371, model(), VULKAN, (), 18004),
        (7393, model(), CUDA, (), 18004),
        (9000, model("unsloth/GLM-4.7-GGUF"), VULKAN, (), 18835),
        (7707, model("unsloth/Qwen3-Coder-Next-GGUF"), VULKAN, (), 18761),
        (8184, model(), VULKAN, ("Intel Arc A770",), 20097),
        (10875, model(), VULKAN, ("AMD Radeon RX 7900 XTX",), 21440),
        (8734, model(), CUDA, (), 21721),
        (10524, model(split_mode="tensor"), CUDA, (), 27430),
        (10054, model(split_mode="tensor"), CUDA, (), 25829),
        (10441, model(split_mode="tensor", cache_type_k="iq4_nl", cache_type_v="iq4_nl"), CUDA, (), 27116),
    ],
)
def test_a_build_with_a_known_fault(
    number: int, declared: Model, build: Build, cards: tuple[str, ...], thread: int
) -> None:
    assert thread in issues(number, declared, build, *cards)


@pytest.mark.parametrize(
    ("number", "declared", "build", "cards"),
    [
        (7370, model(), CUDA, ()),
        (7394, model(), CUDA, ()),
        (0, model(), CUDA, ()),  # of an archive, whose number is not known
        (10524, model(), CUDA, ()),  # layers, not tensors, are split
        (8184, model(), VULKAN, ("AMD Radeon RX 7900 XTX",)),
        (10875, model(), VULKAN, ("AMD Radeon RX 7900 XT",)),
        (10875, model(environment={"GGML_VK_ALLOW_GRAPHICS_QUEUE": "1"}), VULKAN, ("AMD Radeon RX 7900 XTX",)),
    ],
)
def test_other_builds_models_and_cards_are_not_warned_of(
    number: int, declared: Model, build: Build, cards: tuple[str, ...]
) -> None:
    assert issues(number, declared, build, *cards) == []


def test_the_warning_names_range_symptom_thread_and_remedy() -> None:
    (lint,) = known_bad_lints(model(), VULKAN, 7380, ())
    assert lint.severity == "warning"
    assert "llama.cpp b7380 is among the builds with a known fault (b7371 to b7393)" in lint.consequence
    assert "https://github.com/ggml-org/llama.cpp/issues/18004" in lint.consequence
    assert "pin another commit" in lint.remedy


def test_every_row_is_a_range_with_a_thread() -> None:
    assert len({bad.issue for bad in KNOWN_BAD_BUILDS}) == len(KNOWN_BAD_BUILDS) >= 5
    assert all(bad.last is None or bad.first <= bad.last for bad in KNOWN_BAD_BUILDS)
    # Without an end and for everybody, a row would warn of every pin to come.
    assert all(bad.last or bad.models or bad.cards or bad.cache_types or bad.speculation for bad in KNOWN_BAD_BUILDS)
