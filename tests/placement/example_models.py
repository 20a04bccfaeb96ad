"""Models, cards and weights for the tests of placement; data/ holds output of the pinned llama-fit-params."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamarig.declare.model import Model
from llamarig.declare.placement import Experts, Layers
from llamarig.declare.serve import Serve
from llamarig.placement.candidate import Candidate
from llamarig.placement.devices import device
from llamarig.placement.model_layers import LayerWeights
from llamarig.remote.shared.gguf_header import Header, Tensor, Value

MIB = 1 << 20
CARDS = (device("CUDA0", "RTX 4090", 24564, 23671), device("CUDA1", "RTX 5070 Ti", 16303, 12761))
DATA = Path(__file__).parent / "data"
SETTINGS = Candidate(Layers(gpu=(0,), split=(1,)), 262144, 2048, "q8_0", "q8_0")


def qwen3_next(layers: int = 48, *, fused: bool = False, nextn: bool = False) -> Header:
    """Qwen3-Coder-Next's tensors at Q6_K: 420 MiB an expert tensor (src/models/qwen3next.cpp, pinned commit)."""
    experts = ("gate_up", "down") if fused else ("gate", "up", "down")
    tensors = [Tensor("token_embd.weight", (2048, 151936), "Q6_K", 243 * MIB)]
    for layer in range(layers):
        attention = ("attn_q", "attn_k") if (layer + 1) % 4 == 0 else ("attn_qkv", "ssm_conv1d")
        tensors += [Tensor(f"blk.{layer}.{name}.weight", (2048, 512), "Q6_K", 10 * MIB) for name in attention]
        tensors += [
            Tensor(f"blk.{layer}.ffn_{name}_exps.weight", (2048, 512, 512), "Q6_K", 1260 // len(experts) * MIB)
            for name in experts
        ]
    if nextn:
        tensors.append(Tensor(f"blk.{layers}.nextn.eh_proj.weight", (2048, 4096), "Q6_K", 10 * MIB))
    tensors.append(Tensor("output.weight", (2048, 151936), "Q6_K", 243 * MIB))
    sizes = {"conv_kernel": 4, "inner_size": 4096, "state_size": 128, "group_count": 16}
    metadata: dict[str, Value] = {
        "general.architecture": "qwen3next",
        **{f"qwen3next.ssm.{key}": value for key, value in sizes.items()},
    }
    return Header(tuple(tensors), metadata)


def dry_run_output(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


def model(**serve: Any) -> Model:
    placed = {"port": 8080, "context": 65536, "placement": {"kind": "auto"}, **serve}
    return Model(name="m", repo="o/r", quant="Q6_K", build="b", serve=Serve.model_validate(placed))


def weights(layers: int, dense: int = 26, expert: int = 420, output: int = 243) -> LayerWeights:
    kinds: tuple[Experts, ...] = ("up", "gate", "down")
    each = {kind: float(expert) for kind in kinds}
    return LayerWeights((float(dense),) * layers, tuple(dict(each) for _ in range(layers)), float(output))


def moe(layers: int, kinds: tuple[float, float, float] = (420.0, 420.0, 420.0)) -> LayerWeights:
    experts: Mapping[Experts, float] = {"up": kinds[0], "gate": kinds[1], "down": kinds[2]}
    return LayerWeights((30.0,) * layers, (experts,) * layers, 300.0)
