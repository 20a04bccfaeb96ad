"""The answer of llama.cpp's own fit; data/ holds output of the pinned commit."""

from __future__ import annotations

import pytest
from llamarig.placement.dry_run import DryRunError
from llamarig.placement.llama_cpp_fit import fit_answer, fit_layers
from llamarig.placement.model_layers import layer_weights

from tests.placement.example_models import CARDS, dry_run_output, qwen3_next


def test_the_answer_of_fit_is_counted_in_layers() -> None:
    header = qwen3_next()
    answer = fit_answer(dry_run_output("fit-qwen3-coder-next-q6"))
    # Layer 15 has ffn_down on the other GPU; layer 21 has some experts in RAM, layers 22 to 47 have all.
    found = fit_layers(answer, layer_weights(header), header.tensors, CARDS)
    assert found == ((15, 5), 1)


def test_a_failed_fit_is_reported() -> None:
    with pytest.raises(DryRunError, match="n_gpu_layers already set by user"):
        fit_answer(dry_run_output("fit-gave-up"))


def test_an_answer_without_overrides_has_every_layer_whole() -> None:
    header = qwen3_next()
    weights = layer_weights(header)
    assert fit_layers(["-c", "4096", "-ngl", "-1"], weights, header.tensors, CARDS[:1])[0] == (48,)
    # llama.cpp divides by free memory: 65 % of 49 on the first.
    assert fit_layers(["-c", "4096", "-ngl", "-1"], weights, header.tensors, CARDS)[0] == (32, 16)
    part = ["-c", "1", "-ngl", "41", "-ts", "41,0"]
    assert fit_layers(part, weights, header.tensors, CARDS)[0] == (40, 0)
