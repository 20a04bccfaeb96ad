"""Headers of two real models with a layer of multi-token prediction, and where llama.cpp puts their layers.

The GPU of a layer is computed from the flags alone, as load_tensors does it (src/llama-model.cpp:1589 to 1597, pinned
commit); tests/box/test_mtp_layers.py runs llama.cpp itself.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from llamarig.declare.placement import Layers, Placement
from llamarig.placement.model_layers import layer_of
from llamarig.placement.tensor_overrides import rule_coverage
from llamarig.remote.shared.gguf_header import ALIGNMENT, Header, read_header
from llamarig.render.placement_arguments import placement_arguments

MIB = 1 << 20
DATA = Path(__file__).parent / "data"
NAMES = ("qwen36_mtp", "glm45_air")
POSITIONS = {"qwen36_mtp": 42, "glm45_air": 48}
"""As counted by the pinned build: "offloaded 42/42 layers to GPU"."""


def header_bytes(name: str) -> bytes:
    """The whole header, without a vocabulary."""
    return (DATA / f"{name}.header.gguf").read_bytes()


def trunk_only_bytes(name: str) -> bytes:
    """The header of a file whose last block has no tensors."""
    data, last = header_bytes(name), f"blk.{POSITIONS[name] - 2}."
    whole = read_header(data)
    infos = [
        struct.pack("<Q", len(tensor.name)) + tensor.name.encode() + struct.pack("<I", len(tensor.shape))
        for tensor in whole.tensors
    ]
    begin = data.index(infos[0])
    kept, at, offset = [], begin, 0
    for tensor, info in zip(whole.tensors, infos, strict=True):
        assert data.startswith(info, at)
        length = len(info) + 8 * len(tensor.shape) + 4
        if not tensor.name.startswith(last):
            kept.append(data[at : at + length] + struct.pack("<Q", offset))
            offset += -(-tensor.size // ALIGNMENT) * ALIGNMENT
        at += length + 8
    return data[:8] + struct.pack("<Q", len(kept)) + data[16:begin] + b"".join(kept)


@cache
def header(name: str) -> Header:
    return read_header(header_bytes(name))


@cache
def trunk_only(name: str) -> Header:
    return read_header(trunk_only_bytes(name))


@dataclass(frozen=True)
class Loaded:
    """``homes``: index of the GPU by layer, None in RAM. ``gpus`` and ``ram``: MiB of weights."""

    homes: dict[int, int | None]
    gpus: tuple[float, ...]
    ram: float


def loaded(arguments: Sequence[str], of: Header, gpus: int, *, mtp: bool = False) -> Loaded:
    """Where llama.cpp puts layers and weights with these flags."""
    words = dict(zip(arguments[::2], arguments[1::2], strict=True))
    kind = of.metadata["general.architecture"]
    blocks, nextn = of.metadata[f"{kind}.block_count"], of.metadata[f"{kind}.nextn_predict_layers"]
    assert isinstance(blocks, int)
    assert isinstance(nextn, int)
    on_gpu = int(words["--n-gpu-layers"])
    shares = [int(share) for share in words.get("--tensor-split", ",".join("1" * gpus)).split(",")]
    reached = [share / sum(shares) for share in accumulate(shares)]
    start, placed = max(blocks + 1 - on_gpu, 0), min(on_gpu, blocks + 1)

    def home(position: int) -> int | None:
        return None if position < start else bisect_right(reached, (position - start) / placed)

    rules = words["--override-tensor"].split(",") if "--override-tensor" in words else []
    in_ram = {tensor.name for rule in rule_coverage(rules, of.tensors) for tensor in rule.tensors} | {
        "token_embd.weight"
    }
    sizes, ram = [0.0] * gpus, 0.0
    for tensor in of.tensors:
        layer = layer_of(tensor.name)
        if layer is not None and layer >= blocks - nextn and not mtp:
            continue
        gpu = home(blocks if layer is None else layer)
        if gpu is None or tensor.name in in_ram:
            ram += tensor.size / MIB
        else:
            sizes[gpu] += tensor.size / MIB
    return Loaded({layer: home(layer) for layer in range(blocks)}, tuple(sizes), ram)


def flags(placement: Placement) -> list[str]:
    return [word for flag in placement_arguments(placement) for word in flag]


def layers_by_plan(placement: Layers) -> dict[int, int | None]:
    """The GPU by layer as a plan counts them, for layers that have weights."""
    homes: dict[int, int | None] = dict.fromkeys(range(placement.in_ram))
    start = placement.in_ram
    for gpu, count in enumerate(placement.room):
        homes |= dict.fromkeys(range(start, start + count), gpu)
        start += count
    return homes
