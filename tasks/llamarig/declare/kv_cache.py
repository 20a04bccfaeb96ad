"""Types of KV cache."""

from __future__ import annotations

from typing import Literal

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
"""KV cache types of llama.cpp (common/arg.cpp of the pinned commit)."""

KERNEL_TYPES = frozenset({"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "bf16", "f16"})
"""Types with flash attention kernels; llama.cpp's CMake fails for any other (ggml/cmake/common.cmake)."""
