"""Tensors and metadata of real models at full size: Qwen3-Coder-Next, gpt-oss-120b, Qwen3.5-35B-A3B and others.

Shapes are those that llama.cpp's loaders require (src/models/ of the pinned commit), dimensions those of the model
cards. Tensor types follow the rules of llama-quantize as far as these models need them; uploads under the same name may
mix types differently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import gguf
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES

Dimensions = tuple[int, ...]
"""In ggml's order: the row first."""


@dataclass(frozen=True)
class Experts:
    """The mixture of experts in every layer. ``shared``: width of the expert that always runs, 0 if there is none."""

    count: int
    used: int
    width: int
    shared: int = 0
    fused: bool = False
    biased: bool = False


@dataclass(frozen=True)
class Recurrent:
    """Gated DeltaNet layers; of every ``interval`` layers the last is full attention."""

    interval: int = 4
    kernel: int = 4
    state: int = 128
    groups: int = 16
    heads: int = 32
    joint: bool = True
    """Whether beta and alpha are one tensor."""

    @property
    def keys(self) -> int:
        return self.state * self.groups

    @property
    def values(self) -> int:
        return self.state * self.heads


@dataclass(frozen=True)
class ModelShape:
    """One model. ``metadata``: keys of the architecture beyond the common ones."""

    architecture: str
    layers: int
    embedding: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_size: int
    context: int
    feed_forward: int
    rope_dimensions: int
    rope_base: float
    quant: str
    experts: Experts | None = None
    recurrent: Recurrent | None = None
    gated_queries: bool = False
    query_norms: bool = True
    post_attention_norm: bool = True
    biased: bool = False
    """Attention with biases and sinks, as gpt-oss has it."""
    metadata: Mapping[str, int | float | str | list[int]] = field(default_factory=dict)

    def is_recurrent(self, layer: int) -> bool:
        return self.recurrent is not None and (layer + 1) % self.recurrent.interval != 0

    def tensors(self) -> Iterator[tuple[str, Dimensions]]:
        """Every tensor's name and dimensions, in the order a converter writes them."""
        yield "token_embd.weight", (self.embedding, self.vocabulary)
        for layer in range(self.layers):
            for name, dimensions in self._layer(layer):
                yield f"blk.{layer}.{name}", dimensions
        yield "output_norm.weight", (self.embedding,)
        yield "output.weight", (self.embedding, self.vocabulary)

    def _layer(self, layer: int) -> Iterator[tuple[str, Dimensions]]:
        width = self.embedding
        yield "attn_norm.weight", (width,)
        yield ("post_attention_norm" if self.post_attention_norm else "ffn_norm") + ".weight", (width,)
        yield from self._deltanet() if self.is_recurrent(layer) else self._attention()
        yield from self._feed_forward() if self.experts is None else self._expert_layer(self.experts)

    def _attention(self) -> Iterator[tuple[str, Dimensions]]:
        width, queries, keys = self.embedding, self.heads * self.head_size, self.kv_heads * self.head_size
        yield "attn_q.weight", (width, 2 * queries if self.gated_queries else queries)
        yield "attn_k.weight", (width, keys)
        yield "attn_v.weight", (width, keys)
        yield "attn_output.weight", (queries, width)
        if self.query_norms:
            yield "attn_q_norm.weight", (self.head_size,)
            yield "attn_k_norm.weight", (self.head_size,)
        if self.biased:
            yield "attn_q.bias", (queries,)
            yield "attn_k.bias", (keys,)
            yield "attn_v.bias", (keys,)
            yield "attn_output.bias", (width,)
            yield "attn_sinks.weight", (self.heads,)

    def _deltanet(self) -> Iterator[tuple[str, Dimensions]]:
        assert self.recurrent is not None
        width, net = self.embedding, self.recurrent
        yield "attn_qkv.weight", (width, 2 * net.keys + net.values)
        yield "attn_gate.weight", (width, net.values)
        yield "ssm_conv1d.weight", (net.kernel, 2 * net.keys + net.values)
        yield "ssm_dt.bias", (net.heads,)
        yield "ssm_a", (net.heads,)
        if net.joint:
            yield "ssm_ba.weight", (width, 2 * net.heads)
        else:
            yield "ssm_beta.weight", (width, net.heads)
            yield "ssm_alpha.weight", (width, net.heads)
        yield "ssm_norm.weight", (net.state,)
        yield "ssm_out.weight", (net.values, width)

    def _expert_layer(self, experts: Experts) -> Iterator[tuple[str, Dimensions]]:
        width, count, inner = self.embedding, experts.count, experts.width
        yield "ffn_gate_inp.weight", (width, count)
        if experts.fused:
            yield "ffn_gate_up_exps.weight", (width, 2 * inner, count)
        else:
            yield "ffn_gate_exps.weight", (width, inner, count)
            yield "ffn_up_exps.weight", (width, inner, count)
        yield "ffn_down_exps.weight", (inner, width, count)
        if experts.biased:
            yield "ffn_gate_inp.bias", (count,)
            yield "ffn_gate_exps.bias", (inner, count)
            yield "ffn_up_exps.bias", (inner, count)
            yield "ffn_down_exps.bias", (width, count)
        if experts.shared:
            yield "ffn_gate_inp_shexp.weight", (width,)
            yield "ffn_gate_shexp.weight", (width, experts.shared)
            yield "ffn_up_shexp.weight", (width, experts.shared)
            yield "ffn_down_shexp.weight", (experts.shared, width)

    def _feed_forward(self) -> Iterator[tuple[str, Dimensions]]:
        yield "ffn_gate.weight", (self.embedding, self.feed_forward)
        yield "ffn_up.weight", (self.embedding, self.feed_forward)
        yield "ffn_down.weight", (self.feed_forward, self.embedding)

    def type_of(self, name: str, dimensions: Dimensions) -> GGMLQuantizationType:
        """The type a tensor has in a file of this quant (llama-quantize: tensor_allows_quantization and what follows).

        Vectors, biases, norms, the router and the convolution stay F32.
        """
        kept = len(dimensions) < 2 or not name.endswith("weight") or "norm" in name
        if kept or "ffn_gate_inp" in name or "ssm_conv1d" in name:
            return GGMLQuantizationType.F32
        if self.quant in ("MXFP4_MOE", "F16"):  # gpt-oss is uploaded as F16 with its experts as they were trained
            rest = GGMLQuantizationType.F16 if self.quant == "F16" else GGMLQuantizationType.Q8_0
            return GGMLQuantizationType.MXFP4 if len(dimensions) == 3 else rest
        if self.quant == "Q4_K_M":
            return GGMLQuantizationType.Q6_K if self._has_more_bits(name) else GGMLQuantizationType.Q4_K
        return GGMLQuantizationType[self.quant]

    def _has_more_bits(self, name: str) -> bool:
        """Whether a K_M mix gives the tensor more bits: the output, and in some layers attn_v and ffn_down."""
        layer = re.match(r"blk\.(\d+)\.(attn_v|attn_qkv|ffn_down)", name)
        if layer is None:
            return name == "output.weight"
        index, eighth = int(layer[1]), self.layers // 8
        return index < eighth or index >= 7 * self.layers // 8 or (index - eighth) % 3 == 2

    def size(self, name: str, dimensions: Dimensions) -> int:
        """Bytes of a tensor's data."""
        block, block_size = GGML_QUANT_SIZES[self.type_of(name, dimensions)]
        elements = 1
        for length in dimensions:
            elements *= length
        return elements // block * block_size


QWEN3_CODER_NEXT = ModelShape(
    architecture="qwen3next",
    layers=48,
    embedding=2048,
    vocabulary=151936,
    heads=16,
    kv_heads=2,
    head_size=256,
    context=262144,
    feed_forward=5120,
    rope_dimensions=64,
    rope_base=5e6,
    quant="Q6_K",
    experts=Experts(count=512, used=10, width=512, shared=512),
    recurrent=Recurrent(),
    gated_queries=True,
)

GPT_OSS_120B = ModelShape(
    architecture="gpt-oss",
    layers=36,
    embedding=2880,
    vocabulary=201088,
    heads=64,
    kv_heads=8,
    head_size=64,
    context=131072,
    feed_forward=2880,
    rope_dimensions=64,
    rope_base=150000.0,
    quant="F16",
    experts=Experts(count=128, used=4, width=2880, biased=True),
    query_norms=False,
    biased=True,
    metadata={
        "attention.sliding_window": 128,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 32.0,
        "rope.scaling.original_context_length": 4096,
    },
)

QWEN35_35B_A3B = ModelShape(
    architecture="qwen35moe",
    layers=40,
    embedding=2048,
    vocabulary=248320,
    heads=16,
    kv_heads=2,
    head_size=256,
    context=262144,
    feed_forward=5120,
    rope_dimensions=64,
    rope_base=1e7,
    quant="Q4_K_M",
    experts=Experts(count=256, used=8, width=512, shared=512),
    recurrent=Recurrent(joint=False),
    gated_queries=True,
    metadata={"rope.dimension_sections": [11, 11, 10, 0]},
)

QWEN3_30B_A3B = ModelShape(
    architecture="qwen3moe",
    layers=48,
    embedding=2048,
    vocabulary=151936,
    heads=32,
    kv_heads=4,
    head_size=128,
    context=262144,
    feed_forward=6144,
    rope_dimensions=128,
    rope_base=1e7,
    quant="Q4_K_M",
    experts=Experts(count=128, used=8, width=768),
    post_attention_norm=False,
)

QWEN3_32B = ModelShape(
    architecture="qwen3",
    layers=64,
    embedding=5120,
    vocabulary=151936,
    heads=64,
    kv_heads=8,
    head_size=128,
    context=40960,
    feed_forward=25600,
    rope_dimensions=128,
    rope_base=1e6,
    quant="Q4_K_M",
    post_attention_norm=False,
)


def fused(shape: ModelShape) -> ModelShape:
    """The same model with the experts' gate and up as one tensor, as in newer conversions."""
    assert shape.experts is not None
    return replace(shape, experts=replace(shape.experts, fused=True))


SHAPES: dict[str, ModelShape] = {
    "qwen3-coder-next-q6": QWEN3_CODER_NEXT,
    "qwen3-coder-next-q6-fused": fused(QWEN3_CODER_NEXT),
    "qwen3-coder-next-mxfp4": replace(QWEN3_CODER_NEXT, quant="MXFP4_MOE"),
    "qwen3-coder-next-q5": replace(QWEN3_CODER_NEXT, quant="Q5_K"),
    "qwen3-coder-next-q4": replace(QWEN3_CODER_NEXT, quant="Q4_K_M"),
    "gpt-oss-120b": GPT_OSS_120B,
    "qwen35-35b-a3b-q4": QWEN35_35B_A3B,
    "qwen35-35b-a3b-q8": replace(QWEN35_35B_A3B, quant="Q8_0"),
    "qwen3-30b-a3b": QWEN3_30B_A3B,
    "qwen3-32b": QWEN3_32B,
}
"""By the name of their test files."""

FILE_TYPES = {
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_K_M": gguf.LlamaFileType.MOSTLY_Q4_K_M,
    "Q5_K": gguf.LlamaFileType.MOSTLY_Q5_K_M,
    "Q6_K": gguf.LlamaFileType.MOSTLY_Q6_K,
    "IQ2_XS": gguf.LlamaFileType.MOSTLY_IQ2_XS,
    "Q2_K": gguf.LlamaFileType.MOSTLY_Q2_K,
    "IQ3_S": gguf.LlamaFileType.MOSTLY_IQ3_S,
    "Q3_K": gguf.LlamaFileType.MOSTLY_Q3_K_M,
    "IQ4_XS": gguf.LlamaFileType.MOSTLY_IQ4_XS,
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
    "MXFP4_MOE": 38,  # not in gguf's own table yet
}
