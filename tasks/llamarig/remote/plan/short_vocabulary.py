"""Copies a model's headers with a shorter vocabulary, so that a dry run reserves as much for logits as llama-server.

    python3 -m llamarig.remote.plan.short_vocabulary DIRECTORY OUTPUTS UBATCH SHARD...

prints the path of the first copied shard, or ``error:`` and the reason.

llama-fit-params reserves logits for every token of a batch, llama-server for one or a few tokens per slot
(tools/server/server-context.cpp server_output_limits, pinned commit): a difference of up to gigabytes on the GPU of
the output layer. With a vocabulary shortened by the same ratio both reserve the same, and nothing else in the graph
changes.

Python 3.9 or newer, standard library only.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

from llamarig.remote.plan.model_headers import read_whole_header
from llamarig.remote.shared.gguf_header import ALIGNMENT, TYPES, HeaderError

_SCALAR_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY, _UINT32 = 8, 9, 4


class RawHeader:
    """A header split into the bytes of its keys and tensors. The header must have been validated by gguf_header.py."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 8
        self.version = data[4:8]
        self.tensor_count, key_count = self.number("<Q"), self.number("<Q")
        self.keys = [self._key() for _ in range(key_count)]
        self.tensors = [self._tensor() for _ in range(self.tensor_count)]
        self.length = self.at

    def number(self, layout: str) -> int:
        """Read the number at the current position."""
        value = struct.unpack_from(layout, self.data, self.at)[0]
        self.at += struct.calcsize(layout)
        return int(value)

    def _text(self) -> str:
        length = self.number("<Q")
        self.at += length
        return self.data[self.at - length : self.at].decode(errors="replace")

    def _key(self) -> tuple[str, bytes]:
        """Read a key: its name, and all its bytes (name, type and value)."""
        start = self.at
        name = self._text()
        self._skip(self.number("<I"))
        return name, self.data[start : self.at]

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            self._text()
        elif kind == _ARRAY:
            element, count = self.number("<I"), self.number("<Q")
            if element == _STRING:
                for _ in range(count):
                    length = self.number("<Q")
                    self.at += length
            else:
                self.at += count * _SCALAR_SIZES[element]
        else:
            self.at += _SCALAR_SIZES[kind]

    def _tensor(self) -> tuple[str, list[int], int]:
        name = self._text()
        shape = [self.number("<Q") for _ in range(self.number("<I"))]
        kind = self.number("<I")
        self.at += 8  # offset of its data
        return name, shape, kind


def vocabulary_of(shards: list[RawHeader]) -> int:
    """Return the size of the vocabulary: the rows of the token embedding.

    :raises HeaderError: for a model without one
    """
    for shard in shards:
        for name, shape, _ in shard.tensors:
            if name == "token_embd.weight" and len(shape) == 2:
                return shape[1]
    raise HeaderError("has no token_embd.weight, so its vocabulary cannot be shortened")


def shorten(raw: RawHeader, vocabulary: int, rows: int) -> tuple[bytes, int]:
    """Return the header with a vocabulary of ``rows``, padded, and the size in bytes of a whole file with it."""
    alignment = ALIGNMENT
    keys = []
    for name, value in raw.keys:
        if name == "general.alignment":
            alignment = struct.unpack("<I", value[-4:])[0]
        if not name.startswith("tokenizer.") and not name.endswith(".vocab_size"):
            keys.append(value)
    architecture = _text_value(raw, "general.architecture")
    if architecture:  # only the first shard has the model's metadata
        keys.append(_string("tokenizer.ggml.model") + struct.pack("<I", _STRING) + _string("none"))
        keys.append(_string(architecture + ".vocab_size") + struct.pack("<II", _UINT32, rows))
    tensors, offset = [], 0
    for name, shape, kind in raw.tensors:
        shape = shape if name.startswith("blk.") else [rows if length == vocabulary else length for length in shape]
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        tensors.append(_string(name) + dimensions + struct.pack("<IQ", kind, offset))
        offset += _padded(_size(shape, kind), alignment)
    counts = struct.pack("<QQ", len(tensors), len(keys))
    header = b"GGUF" + raw.version + counts + b"".join(keys) + b"".join(tensors)
    header += bytes(_padded(len(header), alignment) - len(header))
    return header, len(header) + offset


def _text_value(raw: RawHeader, wanted: str) -> str:
    for name, value in raw.keys:
        if name == wanted:
            return value[8 + len(name) + 4 + 8 :].decode(errors="replace")
    return ""


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _size(shape: list[int], kind: int) -> int:
    _, block, block_size = TYPES[kind]
    elements = 1
    for length in shape:
        elements *= length
    return elements // block * block_size


def prepare(directory: Path, outputs: int, ubatch: int, shards: list[Path]) -> Path:
    """Write the shortened headers as sparse files; return the path of the first.

    :param outputs: tokens that llama-server reserves logits for
    :param ubatch: tokens that llama-fit-params reserves logits for
    :raises HeaderError: for a shard that is not GGUF, or a model without a vocabulary
    """
    raws = [RawHeader(read_whole_header(path)[0]) for path in shards]
    vocabulary = vocabulary_of(raws)
    rows = max(1, -(-vocabulary * outputs // ubatch))
    directory.mkdir(parents=True, exist_ok=True)
    for index, raw in enumerate(raws):
        header, size = shorten(raw, vocabulary, rows)
        copy = directory / shards[index].name
        copy.write_bytes(header)
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
