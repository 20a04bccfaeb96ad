"""A declared prompt cache that is smaller than the state of one prompt."""

from __future__ import annotations

from typing import Any

import pytest
from llamarig.declare.build import Build
from llamarig.lints.lint import Lint
from llamarig.lints.lint_model import needs_header
from llamarig.lints.prompt_cache import prompt_cache_lints
from llamarig.remote.shared.gguf_header import Header, Tensor

from tests.lints.lint_examples import CUDA, model

LAYERS, KEYS = 12, 512


def header(**metadata: int) -> Header:
    """Qwen3-Coder-Next: 12 of its layers have attention, with two heads of 256 for keys and for values."""
    tensors = [
        Tensor(f"blk.{layer}.attn_{kind}.weight", (2048, KEYS), "Q8_0", 0)
        for layer in range(LAYERS)
        for kind in ("k", "v")
    ]
    named = {f"qwen3next.{key}": value for key, value in metadata.items()}
    return Header(
        (*tensors, Tensor("output.weight", (2048, 151936), "Q8_0", 0)), {"general.architecture": "qwen3next", **named}
    )


def found(of: Header | None = None, **serve: Any) -> list[Lint]:
    declared = {"context": 262144, "cache_type_k": "q8_0", "cache_type_v": "q8_0", "cache_ram_mib": 2048, **serve}
    return list(prompt_cache_lints(model(**declared), of or header()))


def test_a_full_prompt_that_the_cache_does_not_hold() -> None:
    (lint,) = found()
    # Measured: 3264 MiB for 262,144 tokens by the log of the pinned llama.cpp.
    assert "a prompt that fills the context of 262144 tokens has a state of 3264 MiB, and cache_ram_mib is 2048" in str(
        lint
    )
    assert "prompts of more than 164482 tokens are not kept" in str(lint)
    assert lint.severity == "warning"


@pytest.mark.parametrize(
    "serve",
    [
        {"cache_ram_mib": 3264},
        {"cache_ram_mib": 0},
        {"cache_ram_mib": -1},
        {"cache_ram_mib": None},
        {"context": 131072},
        {"parallel": 2},
    ],
)
def test_caches_that_hold_a_prompt_or_are_not_declared(serve: dict[str, Any]) -> None:
    assert found(**serve) == []


def test_slots_of_a_unified_cache_may_use_all_of_it() -> None:
    assert len(found(parallel=2, kv_unified=True)) == 1


def test_models_whose_state_the_header_does_not_tell() -> None:
    assert found(header(**{"attention.sliding_window": 1024})) == []
    assert found(Header((Tensor("blk.0.attn_kv_b.weight", (512, 8960), "Q8_0", 0),), {})) == []


def test_the_header_is_read_for_a_declared_cache() -> None:
    cpu = Build(name="b", backend="cpu")
    assert needs_header(model(cache_ram_mib=2048), cpu)
    assert not needs_header(model(), cpu)
    assert not needs_header(model(placement={"kind": "fit"}), CUDA)
