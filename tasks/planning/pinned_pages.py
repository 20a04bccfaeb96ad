"""Whether a running server's weights are pinned memory, by what the kernel says of its process.

Standard library only: the audit imports this, and so does a switch on the box.
"""

from __future__ import annotations

PRICE = "so prompts are read several times more slowly (measured: 4.2 to 6.0 times)"


def is_pageable(shared_mib: int, pinned_mib: int) -> bool:
    """Whether a server holds its weights in ordinary memory although they should be pinned.

    llama.cpp allocates them as one buffer, so there is no half of it, and the pinned buffers of a server whose weights
    are not pinned are far smaller (tests/gpu/RESULTS.md).

    :param shared_mib: RssShmem of its process, which counts CUDA's pinned buffers
    :param pinned_mib: of weights alone
    """
    return shared_mib < pinned_mib * 9 // 10
