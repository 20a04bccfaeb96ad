"""Makes a model's header again with a shorter vocabulary: what a dry run needs to reserve logits as llama-server does.

llama-fit-params reserves logits for every token of a batch, llama-server for one or a few tokens a slot
(tools/server/server-context.cpp server_output_limits, pinned commit): up to gigabytes of difference on the output's
GPU. With a vocabulary shorter by that very ratio, the two are the same size, and nothing else of a graph changes.

Runs on the box under its own Python (3.9 or newer), standard library only:

    python3 -m tasks.files.short_vocabulary DIRECTORY OUTPUTS UBATCH SHARD...

prints the path of the first short shard, or ``error:`` and why there is none.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

from tasks.files.model_headers import FIRST_READ, LAST_READ
from tasks.planning.gguf_header import TYPES, HeaderError, HeaderTruncatedError, read_header

_SCALAR_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_ALIGNMENT = 32
"""ggml's, where a file names none."""


class Raw:
    """A header's bytes taken apart, for one that gguf_header.py has found to be sound."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 8
        self.version = data[4:8]
        self.tensor_count, key_count = self.number("<Q"), self.number("<Q")
        self.keys = [self._key() for _ in range(key_count)]
        self.tensors = [self._tensor() for _ in range(self.tensor_count)]
        self.length = self.at

    def number(self, layout: str) -> int:
        """The number at hand."""
        value = struct.unpack_from(layout, self.data, self.at)[0]
        self.at += struct.calcsize(layout)
        return int(value)

    def _text(self) -> str:
        length = self.number("<Q")
        self.at += length
        return self.data[self.at - length : self.at].decode(errors="replace")

    def _key(self) -> tuple[str, bytes]:
        """Its name, and all its bytes: name, type and value."""
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
        self.at += 8  # where its data lies
        return name, shape, kind


def read(path: Path) -> bytes:
    """A file's first bytes, its whole header among them.

    :raises HeaderError: when it is no GGUF file
    """
    size = FIRST_READ
    while True:
        with path.open("rb") as file:
            data = file.read(size)
        try:
            read_header(data)
            return data
        except HeaderTruncatedError:
            if size >= LAST_READ or len(data) < size:
                raise
        size *= 4


def vocabulary_of(shards: list[Raw]) -> int:
    """Rows of the token embedding.

    :raises HeaderError: when there is none
    """
    for shard in shards:
        for name, shape, _ in shard.tensors:
            if name == "token_embd.weight" and len(shape) == 2:
                return shape[1]
    raise HeaderError("has no token_embd.weight, so its vocabulary cannot be shortened")


def shortened(raw: Raw, vocabulary: int, rows: int) -> tuple[bytes, int]:
    """The same header with so many rows of vocabulary, padded; and the size in bytes of the whole file it is of."""
    alignment = _ALIGNMENT
    keys = []
    for name, value in raw.keys:
        if name == "general.alignment":
            alignment = struct.unpack("<I", value[-4:])[0]
        if not name.startswith("tokenizer.") and not name.endswith(".vocab_size"):
            keys.append(value)
    architecture = _text_value(raw, "general.architecture")
    if architecture:  # the first shard; the others have no metadata but their number
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


def _text_value(raw: Raw, wanted: str) -> str:
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
    """Write the short headers into the directory; the path of the first.

    :param outputs: tokens llama-server reserves logits for
    :param ubatch: tokens llama-fit-params reserves them for
    :raises HeaderError: when a shard is no GGUF file, or has no vocabulary
    """
    raws = [Raw(read(path)) for path in shards]
    vocabulary = vocabulary_of(raws)
    rows = max(1, -(-vocabulary * outputs // ubatch))
    directory.mkdir(parents=True, exist_ok=True)
    for index, raw in enumerate(raws):
        header, size = shortened(raw, vocabulary, rows)
        copy = directory / shards[index].name
        copy.write_bytes(header)
        os.truncate(copy, size)
    return directory / shards[0].name


def main(arguments: list[str]) -> int:
    """Print where the short header is, or why there is none."""
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
