"""Detects weights that are not in pinned (page-locked) memory, from the kernel's counters of the server process."""

from __future__ import annotations

PRICE = "so prompts are read several times more slowly (measured: 4.2 to 6.0 times)"
"""The consequence of pageable weights, as the end of a message."""


def is_pageable(shared_mib: int, pinned_mib: int) -> bool:
    """Whether the weights that should be pinned are in pageable memory.

    llama.cpp allocates them as one buffer, so either all of them are pinned or none; the other pinned buffers of a
    server are far smaller (tests/gpu/RESULTS.md).

    :param shared_mib: RssShmem of the process, which includes CUDA's pinned buffers
    :param pinned_mib: expected size of the pinned weights
    """
    return shared_mib < pinned_mib * 9 // 10
