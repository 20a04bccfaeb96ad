"""The memory bandwidth measurement uses a limited part of memory, and every thread copies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamarig.remote.serve.memory_bandwidth import LEAST, measure, sizes

GIB = 1024**3


@given(cpus=st.integers(1, 1024), available=st.integers(0, 2048 * GIB))
def test_all_blocks_together_use_a_tenth_of_available_memory_and_at_most_2_gib(cpus: int, available: int) -> None:
    copies, block = sizes(cpus, available)
    assert 2 * copies * block <= min(2 * GIB, available // 10)
    assert copies <= cpus
    assert (copies == 0) is (available // 10 < LEAST)


@pytest.mark.parametrize(
    ("cpus", "available", "expected"),
    [
        (2, 20 * GIB, (2, 64 * 1024**2)),
        (128, 300 * GIB, (128, 8 * 1024**2)),  # 16 GiB when each CPU had its 128 MiB
        (16, 1 * GIB, (0, 0)),
    ],
)
def test_block_size_and_threads_depend_on_cpus_and_memory(cpus: int, available: int, expected: tuple[int, int]) -> None:
    assert sizes(cpus, available) == expected


def test_every_thread_copies() -> None:
    moved, took = measure(2, 1024**2, 0.1)
    assert moved >= 2 * 2 * 1024**2
    assert took > 0
