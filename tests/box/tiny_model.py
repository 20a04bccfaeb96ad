"""Make a small qwen3next model with random weights, in three shards, that a real llama-server loads."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter, LlamaFileType, TokenType

SHARDS = 3
ARCHITECTURE = "qwen3next"

# Common pairs, so that a prompt has fewer tokens than bytes. A merge may only use results of the merges before it.
MERGES = ("h e", "l l", "he ll", "hell o", "t h", "th e", "i n", "e r", "Ġ t", "Ġt he")
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class Shape:
    """The model's dimensions. Row lengths are powers of four, so that 1/sqrt(length) is a power of two."""

    experts: int
    layers: int
    embedding: int = 256
    # Large for such a small model, so that a rig may declare contexts of 8K and 32K.
    context: int = 32768
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 64
    rope_dimensions: int = 16
    expert_width: int = 256
    experts_used: int = 2
    # As in Qwen3-Next: every fourth layer is full attention, the others are recurrent.
    attention_interval: int = 4
    conv_kernel: int = 4
    state: int = 64
    state_groups: int = 2
    state_heads: int = 4

    def __post_init__(self) -> None:
        if self.layers < self.attention_interval:
            raise ValueError(f"layers={self.layers}: at least {self.attention_interval}, or none is attention")
        if self.experts < self.experts_used:
            raise ValueError(f"experts={self.experts}: at least {self.experts_used}, the number used per token")

    @property
    def key_width(self) -> int:
        return self.state * self.state_groups

    @property
    def value_width(self) -> int:
        return self.state * self.state_heads


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE vocabulary: 256 bytes, merges, control tokens, padding to a multiple of 32."""

    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]

    def printable(self) -> list[int]:
        """Ids of the tokens that are printable ASCII: any sequence of them is valid text."""
        return [
            index
            for index, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind is TokenType.NORMAL and all(character == "Ġ" or "!" <= character <= "~" for character in token)
        ]


def byte_characters() -> list[str]:
    """GPT-2's byte alphabet: printable Latin-1 characters map to themselves, the other 68 bytes to U+0100 and up."""
    shifted = iter(range(256, 512))
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return [chr(byte if byte in itself else next(shifted)) for byte in range(256)]


def vocabulary() -> Vocabulary:
    normal = [*byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]
    used = len(normal) + len(CONTROL_TOKENS)
    padding = [f"<|pad_{index}|>" for index in range(-used % 32)]
    return Vocabulary(
        tokens=(*normal, *CONTROL_TOKENS, *padding),
        types=(
            *[TokenType.NORMAL] * len(normal),
            *[TokenType.CONTROL] * len(CONTROL_TOKENS),
            *[TokenType.UNUSED] * len(padding),
        ),
    )


def layer_shapes(shape: Shape, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """One layer's tensors in numpy's order of dimensions, the reverse of ggml's."""
    width, experts = shape.embedding, shape.experts
    keys, values = shape.key_width, shape.value_width
    yield "attn_norm.weight", (width,)
    yield "post_attention_norm.weight", (width,)
    if (layer + 1) % shape.attention_interval:
        yield "attn_qkv.weight", (2 * keys + values, width)
        yield "attn_gate.weight", (values, width)
        yield "ssm_conv1d.weight", (2 * keys + values, shape.conv_kernel)
        yield "ssm_dt.bias", (shape.state_heads,)
        yield "ssm_a", (shape.state_heads,)
        yield "ssm_ba.weight", (2 * shape.state_heads, width)
        yield "ssm_norm.weight", (shape.state,)
        yield "ssm_out.weight", (width, values)
    else:
        # Twice the heads' width, because Qwen3-Next's query tensor includes the output gate.
        yield "attn_q.weight", (2 * shape.heads * shape.head_size, width)
        yield "attn_k.weight", (shape.kv_heads * shape.head_size, width)
        yield "attn_v.weight", (shape.kv_heads * shape.head_size, width)
        yield "attn_output.weight", (width, shape.heads * shape.head_size)
        yield "attn_q_norm.weight", (shape.head_size,)
        yield "attn_k_norm.weight", (shape.head_size,)
    yield "ffn_gate_inp.weight", (experts, width)
    yield "ffn_gate_exps.weight", (experts, shape.expert_width, width)
    yield "ffn_up_exps.weight", (experts, shape.expert_width, width)
    yield "ffn_down_exps.weight", (experts, width, shape.expert_width)
    yield "ffn_gate_inp_shexp.weight", (width,)
    yield "ffn_gate_shexp.weight", (shape.expert_width, width)
    yield "ffn_up_shexp.weight", (shape.expert_width, width)
    yield "ffn_down_shexp.weight", (width, shape.expert_width)


def tensor_shapes(shape: Shape, tokens: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (tokens, shape.embedding)
    for layer in range(shape.layers):
        for name, dimensions in layer_shapes(shape, layer):
            yield f"blk.{layer}.{name}", dimensions
    yield "output_norm.weight", (shape.embedding,)
    yield "output.weight", (tokens, shape.embedding)


def draw(rng: np.random.Generator, name: str, dimensions: tuple[int, ...]) -> npt.NDArray[np.floating[Any]]:
    """Random small integers times a power of two: exact in F16 and F32, so the same on any machine."""

    def integers(low: int, high: int) -> npt.NDArray[np.float32]:
        return rng.integers(low, high, size=dimensions, dtype=np.int32).astype(np.float32)

    if name.endswith("ssm_a"):
        return -1 - integers(0, 1024) / 512  # a decay must be negative; -exp(A_log) of the real models is about this
    if name.endswith("ssm_dt.bias"):
        return -integers(0, 1024) / 512
    if "norm" in name:
        return 1 + integers(-64, 64) / 2048
    fan_in = dimensions[-1]
    # A uniform draw from +-1024 deviates by 591; scaled to 1.15 / sqrt(fan_in), activations keep their size.
    scale = 2.0 ** -(9 + (fan_in.bit_length() - 1) // 2)
    weights = integers(-1024, 1024) * np.float32(scale)
    # llama.cpp keeps vectors, the router and the convolution in F32 (tensor_allows_quantization).
    if len(dimensions) == 1 or "ffn_gate_inp" in name or "ssm_conv1d" in name:
        return weights
    return weights.astype(np.float16)


def only_printable(head: npt.NDArray[np.floating[Any]], printable: list[int]) -> None:
    """Change the output head so that the model generates only printable tokens, and never an end of text.

    Other tokens get a logit of exactly 0. Printable tokens are paired with opposite weights, so half of them are
    always above 0: more than llama-server's default top-k of 40.
    """
    half = len(printable) // 2
    head[printable[half : 2 * half]] = -head[printable[:half]]
    others = np.ones(len(head), dtype=bool)
    others[printable] = False
    head[others] = 0


def put_metadata(writer: GGUFWriter, shape: Shape, words: Vocabulary, name: str) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(2)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_feed_forward_length(2 * shape.expert_width)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_dimension_count(shape.rope_dimensions)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.experts_used)
    writer.add_expert_feed_forward_length(shape.expert_width)
    writer.add_expert_shared_feed_forward_length(shape.expert_width)
    writer.add_ssm_conv_kernel(shape.conv_kernel)
    writer.add_ssm_state_size(shape.state)
    writer.add_ssm_group_count(shape.state_groups)
    writer.add_ssm_time_step_rank(shape.state_heads)
    writer.add_ssm_inner_size(shape.value_width)
    writer.add_uint32(f"{ARCHITECTURE}.full_attention_interval", shape.attention_interval)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(list(words.tokens))
    writer.add_token_types(list(words.types))
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(words.tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(words.tokens.index("<|im_end|>"))
    writer.add_pad_token_id(words.tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_shards(directory: Path, stem: str, *, seed: int, experts: int = 8, layers: int = 4) -> list[Path]:
    """Write the three shards `<stem>-0000N-of-00003.gguf`; the same arguments give the same bytes.

    About 16 MB with the default 8 experts and 4 layers; an expert takes 0.4 MB in each layer.
    """
    shape, words = Shape(experts=experts, layers=layers), vocabulary()
    shapes = list(tensor_shapes(shape, len(words.tokens)))
    path = directory / f"{stem}.gguf"
    writer = GGUFWriter(path, ARCHITECTURE, split_max_tensors=-(-len(shapes) // SHARDS))
    put_metadata(writer, shape, words, stem)
    rng = np.random.default_rng(seed)
    for name, dimensions in shapes:
        weights = draw(rng, name, dimensions)
        if name == "output.weight":
            only_printable(weights, words.printable())
        writer.add_tensor(name, weights)
    shards = writer.format_shard_names(path)
    directory.mkdir(parents=True, exist_ok=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if len(shards) != SHARDS:
        raise AssertionError(f"gguf split {len(shapes)} tensors into {len(shards)} shards, not {SHARDS}")
    return shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--stem", default="tiny-F16")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    for shard in write_shards(
        options.directory, options.stem, seed=options.seed, experts=options.experts, layers=options.layers
    ):
        print(f"{shard} {shard.stat().st_size} bytes")


if __name__ == "__main__":
    main()
