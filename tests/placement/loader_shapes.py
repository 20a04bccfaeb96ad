"""Small models of the shapes that llama.cpp's loaders tell apart, as sparse files without a vocabulary.

Each has the tensors that its loader in src/models/ of the pinned commit requires. Few and wide layers: a layer on the
wrong device shows in MiB.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from llamarig.declare.placement import Experts, Layers
from llamarig.placement.model_layers import (
    INPUT_TENSORS,
    MIB,
    layer_counts,
    layer_of,
    layer_weights,
    loaded_tensors,
)
from llamarig.placement.tensor_overrides import tensors_in_ram
from llamarig.remote.shared.gguf_header import Header, read_header
from llamarig.render.placement_arguments import device_of_layers, placement_arguments

from tests.box.sparse_models import put_value

WIDTH, HEADS, KV_HEADS, HEAD, FEED, VOCABULARY = 2048, 16, 4, 128, 4096, 32000
EXPERTS, EXPERT_FEED, SHARED_FEED = 8, 1024, 1536
KEYS = KV_HEADS * HEAD

Tensors = Iterator[tuple[str, tuple[int, ...]]]
"""Names without ``blk.N.`` and dimensions in ggml's order."""
Value = int | float | bool | list[int]
MOE: dict[str, Value] = {
    "expert_count": EXPERTS,
    "expert_used_count": 2,
    "expert_feed_forward_length": EXPERT_FEED,
    "expert_shared_feed_forward_length": SHARED_FEED,
}


@dataclass(frozen=True)
class LoaderShape:
    """One model. ``block``: tensors of a layer; ``nextn``: layers after these; ``extra``: tensors outside of layers."""

    architecture: str
    layers: int
    block: Callable[[int], Tensors]
    metadata: Mapping[str, Value] = field(default_factory=dict)
    nextn: int = 0
    nextn_tensors: bool = True
    tied: bool = False
    only_from: int = 0
    """Layers before this one have no tensors."""
    extra: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def tensors(self) -> Tensors:
        """Every tensor, in the order of a converter."""
        yield "token_embd.weight", (WIDTH, VOCABULARY)
        yield from self.extra
        for layer in range(self.only_from, self.layers + self.nextn * self.nextn_tensors):
            for name, dimensions in self.block(layer):
                yield f"blk.{layer}.{name}", dimensions
            if layer >= self.layers:
                for name, dimensions in _nextn():
                    yield f"blk.{layer}.nextn.{name}", dimensions
        yield "output_norm.weight", (WIDTH,)
        if not self.tied:
            yield "output.weight", (WIDTH, VOCABULARY)


def _nextn() -> Tensors:
    yield "eh_proj.weight", (2 * WIDTH, WIDTH)
    yield "enorm.weight", (WIDTH,)
    yield "hnorm.weight", (WIDTH,)
    yield "embed_tokens.weight", (WIDTH, VOCABULARY)
    yield "shared_head_head.weight", (WIDTH, VOCABULARY)
    yield "shared_head_norm.weight", (WIDTH,)


def _attention(*, norms: int = 0, wide_norms: bool = False) -> Tensors:
    """:param norms: length of the norms of queries and keys, 0 for none"""
    yield "attn_norm.weight", (WIDTH,)
    yield "attn_q.weight", (WIDTH, HEADS * HEAD)
    yield "attn_k.weight", (WIDTH, KEYS)
    yield "attn_v.weight", (WIDTH, KEYS)
    yield "attn_output.weight", (HEADS * HEAD, WIDTH)
    yield "ffn_norm.weight", (WIDTH,)
    if norms:
        yield "attn_q_norm.weight", (HEADS * HEAD if wide_norms else norms,)
        yield "attn_k_norm.weight", (KEYS if wide_norms else norms,)


def _feed_forward(width: int = FEED) -> Tensors:
    yield "ffn_gate.weight", (WIDTH, width)
    yield "ffn_up.weight", (WIDTH, width)
    yield "ffn_down.weight", (width, WIDTH)


def _experts(*, fused: bool = False, shared: int = 0, bias: bool = False, feed: int = EXPERT_FEED) -> Tensors:
    yield "ffn_gate_inp.weight", (WIDTH, EXPERTS)
    if fused:
        yield "ffn_gate_up_exps.weight", (WIDTH, 2 * feed, EXPERTS)
    else:
        yield "ffn_gate_exps.weight", (WIDTH, feed, EXPERTS)
        yield "ffn_up_exps.weight", (WIDTH, feed, EXPERTS)
    yield "ffn_down_exps.weight", (feed, WIDTH, EXPERTS)
    if bias:
        yield "exp_probs_b.bias", (EXPERTS,)
    if shared:
        yield "ffn_gate_shexp.weight", (WIDTH, shared)
        yield "ffn_up_shexp.weight", (WIDTH, shared)
        yield "ffn_down_shexp.weight", (shared, WIDTH)


def _dense(layer: int) -> Tensors:
    yield from _attention()
    yield from _feed_forward()


def _qwen3moe(layer: int) -> Tensors:
    yield from _attention(norms=HEAD)
    yield from _experts()


def _qwen2moe(layer: int) -> Tensors:
    yield from _attention()
    yield "ffn_gate_inp_shexp.weight", (WIDTH,)
    yield from _experts(shared=SHARED_FEED)


def _minimax(layer: int) -> Tensors:
    yield from _attention(norms=HEAD, wide_norms=True)
    yield from _experts(bias=True, feed=FEED)


def _llama4(layer: int) -> Tensors:
    """Every second layer has experts."""
    yield from _attention()
    yield from _experts(shared=EXPERT_FEED) if layer % 2 else _feed_forward()


LATENT, ROPE, QUERY = 512, 64, 768


def _deepseek2(layer: int, *, fused: bool = False) -> Tensors:
    """Latent attention; the first two layers are dense."""
    yield "attn_norm.weight", (WIDTH,)
    yield "attn_q_a_norm.weight", (QUERY,)
    yield "attn_kv_a_norm.weight", (LATENT,)
    yield "attn_q_a.weight", (WIDTH, QUERY)
    yield "attn_q_b.weight", (QUERY, HEADS * 192)
    yield "attn_kv_a_mqa.weight", (WIDTH, LATENT + ROPE)
    yield "attn_k_b.weight", (192 - ROPE, LATENT, HEADS)
    yield "attn_v_b.weight", (LATENT, HEAD, HEADS)
    yield "attn_output.weight", (HEADS * HEAD, WIDTH)
    yield "ffn_norm.weight", (WIDTH,)
    yield from _feed_forward() if layer < 2 else _experts(fused=fused, shared=EXPERT_FEED, bias=True)


DEEPSEEK2 = LoaderShape(
    "deepseek2",
    10,
    _deepseek2,
    {
        **MOE,
        "attention.head_count_kv": 1,
        "attention.key_length": LATENT + ROPE,
        "attention.value_length": LATENT,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": HEAD,
        "attention.q_lora_rank": QUERY,
        "attention.kv_lora_rank": LATENT,
        "rope.dimension_count": ROPE,
        "leading_dense_block_count": 2,
        "expert_shared_count": 1,
        "expert_gating_func": 2,
    },
)


def _gemma3(layer: int) -> Tensors:
    yield from _attention(norms=HEAD)
    yield from _feed_forward()
    yield "post_attention_norm.weight", (WIDTH,)
    yield "post_ffw_norm.weight", (WIDTH,)


PER_LAYER, GEMMA3N_LAYERS = 256, 30


def _gemma3n(layer: int) -> Tensors:
    yield from _gemma3(layer)
    yield "inp_gate.weight", (WIDTH, PER_LAYER)
    yield "proj.weight", (PER_LAYER, WIDTH)
    yield "post_norm.weight", (WIDTH,)
    yield "altup_correct_coef.weight", (4, 4)
    yield "altup_correct_scale.weight", (WIDTH,)
    yield "altup_predict_coef.weight", (4, 16)
    yield "altup_router.weight", (WIDTH, 4)
    yield "altup_router_norm.weight", (WIDTH,)
    yield "laurel_l.weight", (WIDTH, 64)
    yield "laurel_r.weight", (64, WIDTH)
    yield "laurel_post_norm.weight", (WIDTH,)


GEMMA3N = LoaderShape(
    "gemma3n",
    GEMMA3N_LAYERS,
    _gemma3n,
    {"attention.sliding_window": 512, "embedding_length_per_layer_input": PER_LAYER, "altup.num_inputs": 4},
    tied=True,
    extra=(
        ("altup_proj.weight", (WIDTH, WIDTH, 3)),
        ("altup_unembd_proj.weight", (WIDTH, WIDTH, 3)),
        ("per_layer_token_embd.weight", (PER_LAYER * GEMMA3N_LAYERS, VOCABULARY)),
        ("per_layer_model_proj.weight", (WIDTH, PER_LAYER * GEMMA3N_LAYERS)),
        ("per_layer_proj_norm.weight", (PER_LAYER,)),
    ),
)


def _glm4(layer: int) -> Tensors:
    yield from _attention()
    yield "ffn_up.weight", (WIDTH, 2 * FEED)
    yield "ffn_down.weight", (FEED, WIDTH)
    yield "post_attention_norm.weight", (WIDTH,)
    yield "post_ffw_norm.weight", (WIDTH,)


def _step35(layer: int) -> Tensors:
    """The first layer is dense."""
    yield from _attention(norms=HEAD)
    yield "attn_gate.weight", (WIDTH, HEADS)
    yield from _feed_forward() if not layer else _experts(shared=SHARED_FEED, bias=True)


def _hunyuan3(layer: int) -> Tensors:
    yield from _attention(norms=HEAD)
    yield from _feed_forward() if not layer else _experts(shared=SHARED_FEED)


RANK = 16


def _granite_switch(layer: int) -> Tensors:
    yield "attn_norm.weight", (WIDTH,)
    yield "attn_qkv.weight", (WIDTH, HEADS * HEAD + 2 * KEYS)
    yield "attn_output.weight", (HEADS * HEAD, WIDTH)
    yield "ffn_norm.weight", (WIDTH,)
    yield from _feed_forward()
    sizes = {
        "attn_q": (WIDTH, HEADS * HEAD),
        "attn_k": (WIDTH, KEYS),
        "attn_v": (WIDTH, KEYS),
        "attn_output": (HEADS * HEAD, WIDTH),
        "ffn_gate": (WIDTH, FEED),
        "ffn_up": (WIDTH, FEED),
        "ffn_down": (FEED, WIDTH),
    }
    for name, (columns, rows) in sizes.items():
        yield f"{name}.lora_a", (columns, RANK, 2)
        yield f"{name}.lora_b", (RANK, rows, 2)


STEP35_LAYERS, STEP35_NEXTN = 8, 2
SHAPES: dict[str, LoaderShape] = {
    "dense": LoaderShape("llama", 10, _dense),
    "experts": LoaderShape("qwen3moe", 10, _qwen3moe, MOE),
    "shared experts": LoaderShape("qwen2moe", 10, _qwen2moe, MOE),
    "leading dense layers": DEEPSEEK2,
    "fused gate_up": replace(DEEPSEEK2, block=functools.partial(_deepseek2, fused=True)),
    "nextn": replace(DEEPSEEK2, nextn=1),
    "nextn without tensors": replace(DEEPSEEK2, nextn=1, nextn_tensors=False),
    "two nextn layers": replace(DEEPSEEK2, nextn=2),
    "nextn that is never loaded": LoaderShape("glm4", 10, _glm4, nextn=1),
    "nextn that is loaded in part": LoaderShape(
        "step35",
        STEP35_LAYERS,
        _step35,
        {
            **MOE,
            "attention.sliding_window": 512,
            "attention.sliding_window_pattern": [number % 2 for number in range(STEP35_LAYERS + STEP35_NEXTN)],
        },
        nextn=STEP35_NEXTN,
    ),
    "hunyuan": LoaderShape("hy_v3", 8, _hunyuan3, {**MOE, "expert_gating_func": 2}, nextn=1),
    "per-layer embeddings": GEMMA3N,
    "gemma": LoaderShape("gemma3", 12, _gemma3, {"attention.sliding_window": 512}, tied=True),
    "minimax": LoaderShape("minimax-m2", 8, _minimax, {**MOE, "expert_gating_func": 2}),
    "llama 4": LoaderShape(
        "llama4", 8, _llama4, {**MOE, "interleave_moe_layer_step": 2, "attention.sliding_window": 8192}
    ),
    "looped layers": LoaderShape("nanbeige", 6, _dense, {"num_loops": 2}),
    "router layer": LoaderShape(
        "graniteswitch",
        8,
        _granite_switch,
        {
            "logit_scale": 1.0,
            "adapters.count": 1,
            "adapters.lora_rank": RANK,
            "adapters.token_ids_activate": [5],
            "adapters.token_ids_substitute": [6],
        },
        tied=True,
    ),
}


def write(directory: Path, name: str) -> Path:
    """Write a sparse file; returns its path."""
    return write_shape(SHAPES[name], directory / f"{name.replace(' ', '-')}.gguf")


def write_head(path: Path) -> Path:
    """Write a file that has the layer of multi-token prediction of the model "nextn" and no other."""
    shape = SHAPES["nextn"]
    return write_shape(replace(shape, only_from=shape.layers), path)


def write_shape(shape: LoaderShape, path: Path) -> Path:
    """Write a sparse file of any shape; returns its path."""
    writer = GGUFWriter(path, shape.architecture)
    common: dict[str, Value] = {
        "block_count": shape.layers + shape.nextn,
        "context_length": 8192,
        "embedding_length": WIDTH,
        "feed_forward_length": FEED,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "rope.dimension_count": HEAD,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    if shape.nextn:
        common["nextn_predict_layers"] = shape.nextn
    for key, value in {**common, **shape.metadata}.items():
        put_value(writer, f"{shape.architecture}.{key}", value)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(VOCABULARY)
    sizes = []
    for tensor, dimensions in shape.tensors():
        kind = GGMLQuantizationType.F16 if len(dimensions) > 1 and "norm" not in tensor else GGMLQuantizationType.F32
        sizes.append(math.prod(dimensions) * (2 if kind is GGMLQuantizationType.F16 else 4))
        writer.add_tensor_info(tensor, dimensions[::-1], np.dtype(np.float32), sizes[-1], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    padded = [GGUFWriter.ggml_pad(size, writer.data_alignment) for size in (path.stat().st_size, *sizes)]
    os.truncate(path, sum(padded))
    return path


def placements(of: Header) -> list[Layers]:
    """A table of splits over two GPUs: balanced and not, with layers in RAM, with experts in RAM and parts of them."""
    weights = layer_weights(of)
    positions, nextn = weights.positions, weights.nextn
    found = []
    for first, in_ram in ((positions // 2, 0), (2, 0), (positions - 1 - nextn, 0), (positions, 0), (3, 2), (1, 5)):
        split = (first, positions - in_ram - first)
        room = Layers(gpu=(0, 0), split=split, in_ram=in_ram, nextn=nextn).room
        found.append(Layers(gpu=room, split=split, in_ram=in_ram, nextn=nextn))
        if weights.has_experts:
            gpu = (room[0] // 2, room[1] // 3)
            parts: tuple[Experts, ...] = ("down",)
            partial = tuple(parts if whole < count else () for whole, count in zip(gpu, room, strict=True))
            found.append(Layers(gpu=gpu, split=split, in_ram=in_ram, nextn=nextn, partial=partial))
    return found


def counted_mib(placement: Layers, of: Header, names: Sequence[str]) -> dict[str, float]:
    """MiB of weights on each device, as the product counts them."""
    homes = device_of_layers(placement, names)
    flags = {flag[0]: flag[1] for flag in placement_arguments(placement)}
    in_ram = {tensor.name for tensor in tensors_in_ram(flags, of, mtp=False)}
    counts = layer_counts(of.tensors, of.metadata)
    found = dict.fromkeys((*names, "CPU"), 0.0)
    for tensor in loaded_tensors(of, mtp=False):
        layer = layer_of(tensor.name)
        on_cpu = tensor.name.startswith(INPUT_TENSORS) or tensor.name in in_ram
        found["CPU" if on_cpu else homes[counts.all if layer is None else layer]] += tensor.size / MIB
    if not any(tensor.name == "output.weight" for tensor in of.tensors):  # the output is a second embedding
        (embedding,) = (tensor for tensor in of.tensors if tensor.name == "token_embd.weight")
        found[homes[counts.all]] += embedding.size / MIB
    return found


def header_of(path: Path) -> Header:
    """The header as our own parser reads it."""
    with path.open("rb") as file:
        return read_header(file.read(4 << 20), path.stat().st_size)
