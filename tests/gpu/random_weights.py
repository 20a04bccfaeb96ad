"""Fill the weights of a sparse GGUF file with random valid blocks, so that measured speeds are meaningful.

With zeros as weights every token is routed to the same experts, and llama.cpp copies only the experts that are used.
Random weights give nearly uniform routing; whether a real model is faster or slower is unknown. Supports Q6_K, Q8_0,
F16 and F32.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np

_CHUNK = 1 << 16
"""Number of blocks that are generated; a tensor repeats them."""


def fill(path: Path) -> None:
    """Write the data of every tensor, with values so small that no activation overflows.

    Raises ValueError for a tensor of an unsupported type.
    """
    reader = gguf.GGUFReader(path)
    tensors = [(t.name, t.tensor_type.name, int(t.data_offset), int(t.n_bytes)) for t in reader.tensors]
    del reader
    with ThreadPoolExecutor() as pool:
        for written in pool.map(lambda tensor: _fill(path, *tensor), tensors):
            assert written


def _fill(path: Path, name: str, kind: str, offset: int, size: int) -> int:
    random = np.random.default_rng(abs(hash((name, size))))
    block = {"Q6_K": _q6_k, "Q8_0": _q8_0, "F16": _f16, "F32": _f32}.get(kind)
    if block is None:
        raise ValueError(f"{name} is {kind}, which is not supported")
    made = np.asarray(block(random, name)).tobytes()
    with path.open("r+b") as file:
        file.seek(offset)
        left = size
        while left:
            left -= file.write(made[: min(left, len(made))])
    return size


def _q6_k(random: np.random.Generator, name: str) -> np.ndarray:
    blocks = random.integers(0, 256, (_CHUNK, 210), dtype=np.uint8)
    blocks[:, 192:208] = random.integers(-40, 41, (_CHUNK, 16), dtype=np.int8).view(np.uint8)
    blocks[:, 208:210] = np.full((_CHUNK, 1), 4e-5, np.float16).view(np.uint8)
    return blocks


def _q8_0(random: np.random.Generator, name: str) -> np.ndarray:
    blocks = random.integers(0, 256, (_CHUNK, 34), dtype=np.uint8)
    blocks[:, 0:2] = np.full((_CHUNK, 1), 2.5e-4, np.float16).view(np.uint8)
    return blocks


def _f16(random: np.random.Generator, name: str) -> np.ndarray:
    return random.normal(0, 0.02, _CHUNK).astype(np.float16)


def _f32(random: np.random.Generator, name: str) -> np.ndarray:
    if "norm" in name:
        return np.ones(_CHUNK, np.float32)
    if name.endswith("ssm_a"):
        return -np.exp(random.uniform(-1, 1, _CHUNK)).astype(np.float32)
    return random.normal(0, 0.02, _CHUNK).astype(np.float32)
