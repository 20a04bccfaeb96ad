"""Make sparse GGUF files of full-size models: a real header, and a hole in place of the weights.

`ls` shows 65 GB, `du` a few megabytes. The files have all that a dry run of llama.cpp reads.
    python -m tests.box.sparse_models DIRECTORY [NAME ...]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

from tests.box.tiny_model import MERGES, vocabulary
from tests.placement.model_shapes import FILE_TYPES, SHAPES, ModelShape


def write_sparse(directory: Path, name: str, shape: ModelShape, *, shards: int = 1, tokens: bool = False) -> list[Path]:
    """Write ``<name>.gguf``, or ``<name>-00001-of-0000N.gguf`` and the other shards; return the paths in order.

    :param tokens: include a vocabulary as long as the real one, so that the header has its real size; without it, the
        header declares no vocabulary and takes a few hundred kilobytes
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = list(shape.tensors())
    path = directory / f"{name}.gguf"
    # gguf splits by a maximum number of tensors per shard.
    limit = -(-len(tensors) // shards) if shards > 1 else 0
    writer = GGUFWriter(path, shape.architecture, split_max_tensors=limit)
    _put_metadata(writer, shape, name, tokens=tokens)
    for tensor, dimensions in tensors:
        kind = shape.type_of(tensor, dimensions)
        size = shape.size(tensor, dimensions)
        # gguf takes dimensions in numpy's order, and uses the raw type instead of numpy's.
        writer.add_tensor_info(tensor, dimensions[::-1], np.dtype(np.float32), size, raw_dtype=kind)
    written = writer.format_shard_names(path)
    data = [[info.nbytes for info in shard.values()] for shard in writer.tensors]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    if len(written) != shards:
        raise AssertionError(f"gguf split {len(tensors)} tensors into {len(written)} shards, not {shards}")
    for file, sizes in zip(written, data, strict=True):
        padded = [GGUFWriter.ggml_pad(size, writer.data_alignment) for size in (file.stat().st_size, *sizes)]
        os.truncate(file, sum(padded))
    return written


def _put_metadata(writer: GGUFWriter, shape: ModelShape, name: str, *, tokens: bool) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[shape.quant])
    writer.add_quantization_version(2)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_dimension_count(shape.rope_dimensions)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(1e-6)
    if shape.experts is not None:
        writer.add_expert_count(shape.experts.count)
        writer.add_expert_used_count(shape.experts.used)
        writer.add_expert_feed_forward_length(shape.experts.width)
        if shape.experts.shared:
            writer.add_expert_shared_feed_forward_length(shape.experts.shared)
    if shape.recurrent is not None:
        writer.add_ssm_conv_kernel(shape.recurrent.kernel)
        writer.add_ssm_state_size(shape.recurrent.state)
        writer.add_ssm_group_count(shape.recurrent.groups)
        writer.add_ssm_time_step_rank(shape.recurrent.heads)
        writer.add_ssm_inner_size(shape.recurrent.values)
        writer.add_uint32(f"{shape.architecture}.full_attention_interval", shape.recurrent.interval)
    for key, value in shape.metadata.items():
        put_value(writer, f"{shape.architecture}.{key}", value)
    _put_vocabulary(writer, shape, tokens=tokens)


def put_value(writer: GGUFWriter, key: str, value: int | float | bool | str | list[int]) -> None:
    """Add a metadata field of the type that llama.cpp reads for such a value."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case float():
            writer.add_float32(key, value)
        case _:
            writer.add_uint32(key, value)


def _put_vocabulary(writer: GGUFWriter, shape: ModelShape, *, tokens: bool) -> None:
    if not tokens:
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(shape.vocabulary)
        return
    words = vocabulary()
    # Twelve characters are the average length in a real vocabulary, so the header gets its real size.
    padding = [f"token{index:07d}" for index in range(shape.vocabulary - len(words.tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*words.tokens, *padding])
    writer.add_token_types([*words.types, *[TokenType.NORMAL] * len(padding)])
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(words.tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(words.tokens.index("<|im_end|>"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SHAPES)}; all where left out")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--tokens", action="store_true", help="with a vocabulary of the real one's length")
    options = parser.parse_args()
    for name in options.names or SHAPES:
        files = write_sparse(options.directory, name, SHAPES[name], shards=options.shards, tokens=options.tokens)
        for file in files:
            status = file.stat()
            print(f"{file} {status.st_size / 2**30:.2f} GiB, {status.st_blocks / 2:.0f} KiB of it on disk")


if __name__ == "__main__":
    main()
