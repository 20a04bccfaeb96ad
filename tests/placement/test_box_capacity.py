"""Parsing of CPU lists."""

from __future__ import annotations

import pytest
from llamarig.placement.box_capacity import parse_cpu_list


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3,8", {0, 1, 2, 3, 8}),
        ("0 2", {0, 2}),
        ("7", {7}),
        ("", set()),
        ("0..3", set()),
        ("a-b", set()),
        ("8-70000", {*range(8, 8192), 70000}),
    ],
)
def test_lists_of_cpus(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus
