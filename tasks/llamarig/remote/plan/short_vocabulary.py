"""Copies a model's headers with a shorter vocabulary, so that a dry run reserves as much for logits as llama-server.

    python3 -m llamarig.remote.plan.short_vocabulary DIRECTORY OUTPUTS UBATCH SHARD...

prints the path of the first copied shard, or ``error:`` and the reason.

llama-fit-params reserves logits for every token of a batch, llama-server for one or a few tokens per slot
(tools/server/server-context.cpp server_output_limits, pinned commit): a difference of up to gigabytes on the GPU of
the output layer. With a vocabulary shortened by the same ratio both reserve the same, and nothing else in the graph
changes.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from llamarig.remote.plan.model_headers import read_whole_header
from llamarig.remote.shared.gguf_header import STRING, TYPES, UINT32, Header, HeaderError, padded, tensor_size


def vocabulary_of(shards: Iterable[Header]) -> int:
    """The number of rows of the token embedding.

    :raises HeaderError: where there is none
    """
    for shard in shards:
        for tensor in shard.tensors:
            if tensor.name == "token_embd.weight" and len(tensor.shape) == 2:
                return tensor.shape[1]
    raise HeaderError("has no token_embd.weight, so its vocabulary cannot be shortened")


def with_vocabulary(data: bytes, header: Header, vocabulary: int, rows: int) -> tuple[bytes, int]:
    """The header with a vocabulary of ``rows`` and none of its words, padded, and the size of a whole file with it.

    :param data: the bytes that ``header.keys`` are in
    :param vocabulary: its rows now
    """
    keys = [
        data[start:end]
        for name, (start, end) in header.keys.items()
        if not name.startswith("tokenizer.") and not name.endswith(".vocab_size")
    ]
    architecture = header.metadata.get("general.architecture")
    if isinstance(architecture, str):  # only the first shard has the model's metadata
        keys.append(_string("tokenizer.ggml.model") + struct.pack("<I", STRING) + _string("none"))
        keys.append(_string(architecture + ".vocab_size") + struct.pack("<II", UINT32, rows))
    kinds = {label: kind for kind, (label, _, _) in TYPES.items()}
    tensors, offset = [], 0
    for tensor in header.tensors:
        kind, shape = kinds[tensor.type], tensor.shape
        if not tensor.name.startswith("blk."):
            shape = tuple(rows if length == vocabulary else length for length in shape)
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        tensors.append(_string(tensor.name) + dimensions + struct.pack("<IQ", kind, offset))
        offset += padded(tensor_size(shape, kind), header.alignment)
    counts = struct.pack("<QQ", len(tensors), len(keys))
    short = b"GGUF" + data[4:8] + counts + b"".join(keys) + b"".join(tensors)
    short += bytes(padded(len(short), header.alignment) - len(short))
    return short, len(short) + offset


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def prepare(directory: Path, outputs: int, ubatch: int, shards: list[Path]) -> Path:
    """Write the shortened headers as sparse files; return the path of the first.

    :param outputs: tokens that llama-server reserves logits for
    :param ubatch: tokens that llama-fit-params reserves logits for
    :raises HeaderError: for a shard that is not GGUF, or a model without a vocabulary
    """
    read = {path: read_whole_header(path) for path in shards}
    vocabulary = vocabulary_of(header for _, header in read.values())
    rows = max(1, -(-vocabulary * outputs // ubatch))
    directory.mkdir(parents=True, exist_ok=True)
    for path, (data, header) in read.items():
        short, size = with_vocabulary(data, header, vocabulary, rows)
        copy = directory / path.name
        copy.write_bytes(short)
        os.truncate(copy, size)
    return directory / shards[0].name


def main(arguments: list[str]) -> int:
    """Print the path of the first shortened header, or the error."""
    directory, outputs, ubatch, *shards = arguments
    try:
        print(prepare(Path(directory), int(outputs), int(ubatch), [Path(shard) for shard in shards]))
    except HeaderError as error:
        print(f"error: {error}")
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
