"""Tensors moved by --override-tensor rules, and the weights that stay in RAM."""

from __future__ import annotations

import pytest
from llamarig.declare.placement import Layers, Override, Placement
from llamarig.placement.model_layers import LayerCounts, layer_counts, ranges
from llamarig.placement.tensor_overrides import host_bytes, rule_coverage

from tests.placement.example_models import MIB, qwen3_next


def test_first_rule_wins() -> None:
    first, second = rule_coverage(["up_exps=CUDA0", "exps=CPU"], qwen3_next().tensors)
    assert {tensor.name for tensor in first.tensors} & {tensor.name for tensor in second.tensors} == set()
    assert len(second.shadowed) == 48


@pytest.mark.parametrize(
    ("placement", "mebibytes"),
    [
        (Layers(gpu=(13, 6), split=(32, 17)), 29 * 1260 + 243),
        (Override(rules=("exps=CPU",)), 48 * 1260 + 243),
        (Override(rules=("exps=CUDA0",)), 243),
        (Override(rules=("exps=CPU",), gpu_layers=48), 48 * 1260 + 20 + 243),
    ],
)
def test_weights_that_stay_in_ram(placement: Placement, mebibytes: int) -> None:
    assert host_bytes(placement, qwen3_next()) == mebibytes * MIB


def test_layers_of_a_header_without_their_number_are_counted_by_its_tensors() -> None:
    """Layers counted from metadata are tested in tests/placement/test_mtp_layers.py."""
    for header, counts in ((qwen3_next(), LayerCounts(48)), (qwen3_next(nextn=True), LayerCounts(48, 1))):
        assert layer_counts(header.tensors, header.metadata) == counts


def test_consecutive_numbers_are_joined() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
