"""Parser for GGUF headers: the tensors with shape, type and size, and the model's metadata.

Performs no I/O. The input is untrusted: every count and length is compared with the file's size before it is used, no
allocation depends on a number from the file, and what llama.cpp rejects (ggml/src/gguf.cpp, pinned commit) is rejected
here.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

MAX_TENSORS = 1 << 16
MAX_KEYS = 1 << 16
MAX_NAME = 64  # ggml's GGML_MAX_NAME
ALIGNMENT = 32  # gguf's GGUF_DEFAULT_ALIGNMENT
MAX_ALIGNMENT = 1 << 16
"""The largest page size of a Linux kernel: nothing gains from more. llama.cpp takes every power of two up to 2^31, with
which a few tensors are padded to gigabytes."""
SHORTEST_KEY = 8 + 1 + 4 + 1
"""Bytes of a key: length and one byte of its name, type, and a value of one byte."""
SHORTEST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8
"""Bytes of a tensor: length and one byte of its name, number of dimensions, one of them, type, offset."""
KEPT_STRING = 80
"""Longest string to keep, in bytes. Longer ones (chat templates) and lists (tokens, merges) are skipped: they do not
affect memory use, and without them a hostile header takes no more memory than a few times its own bytes."""

# ggml_type -> name, elements per block, bytes per block (ggml/include/ggml.h, ggml/src/ggml.c, pinned commit).
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
UINT32, STRING, _ARRAY = 4, 8, 9

Value = Union[int, float, bool, str]  # noqa: UP007 - evaluated at run time, on Python 3.9 too


class HeaderError(ValueError):
    """The bytes are not a GGUF header that llama.cpp would accept; the message says why."""


class HeaderTruncatedError(HeaderError):
    """The header is longer than the given bytes: read more of the file."""


@dataclass(frozen=True)
class Tensor:
    """One tensor. ``shape``: in ggml's order (row length first); ``size``: bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    size: int


@dataclass(frozen=True)
class Header:
    """A file's tensors in file order, and its metadata without lists and long strings.

    ``length``: size of the header in bytes, without the padding after it; ``sha256``: of these bytes; ``keys``: where
    each key begins and ends in them, with its value.
    """

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, Value] = field(default_factory=dict)
    length: int = 0
    sha256: str = ""
    keys: Mapping[str, tuple[int, int]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def alignment(self) -> int:
        """Each part of the file begins at a multiple of this many bytes."""
        return int(self.metadata.get("general.alignment", ALIGNMENT))

    @property
    def least_file_size(self) -> int:
        """Smallest size in bytes of a complete file with this header. Every part but the last is padded."""
        parts = [self.length, *(tensor.size for tensor in self.tensors)]
        return sum(padded(size, self.alignment) for size in parts[:-1]) + parts[-1]


@dataclass(frozen=True)
class FirstKeys:
    """The beginning of a header: the number of tensors that it claims, and the keys that were read."""

    tensors: int = 0
    metadata: Mapping[str, Value] = field(default_factory=dict)

    @property
    def architecture(self) -> str | None:
        """general.architecture, which is the first key in practice; None if it was not read."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else None


def padded(size: int, alignment: int) -> int:
    """Return the size, rounded up to a multiple of the alignment."""
    return -(-size // alignment) * alignment


def tensor_size(shape: Sequence[int], kind: int) -> int:
    """Return the bytes of a tensor whose type is one of TYPES."""
    _, block, block_size = TYPES[kind]
    return math.prod(shape) // block * block_size


def digest_of(headers: Iterable[Header]) -> str:
    """Return one sha256 for the headers of all shards of a model, in shard order."""
    return hashlib.sha256("".join(header.sha256 for header in headers).encode()).hexdigest()


def combined_header(headers: Sequence[Header]) -> Header:
    """One header for a model of one or more shards: all tensors in order, and the metadata of the first shard.

    ``length`` and ``sha256`` stay empty, because they describe single files (digest_of covers all of them).
    """
    return Header(tuple(tensor for header in headers for tensor in header.tensors), headers[0].metadata)


def read_header(data: bytes, file_size: int | None = None) -> Header:
    """Parse the header at the beginning of a GGUF file.

    :param data: the file's first bytes, at least the whole header
    :param file_size: of the whole file in bytes; None where there are no tensors' data, only a header
    :raises HeaderTruncatedError: for a header longer than ``data``
    :raises HeaderError: for anything that is not a valid GGUF header, or does not fit into a file of that size
    """
    reader = _Reader(data, file_size)
    if reader.take(4) != b"GGUF":
        raise HeaderError("does not begin with GGUF")
    version = reader.number("<I")
    if version not in (2, 3):
        raise HeaderError(f"GGUF version {version}; llama.cpp reads 2 and 3")
    tensors, keys = reader.number("<Q"), reader.number("<Q")
    if tensors > MAX_TENSORS or keys > MAX_KEYS:
        raise HeaderError(f"claims {tensors} tensors and {keys} keys, more than any model has")
    reader.check_length(tensors * SHORTEST_TENSOR + keys * SHORTEST_KEY, f"{tensors} tensors and {keys} keys")
    metadata, ranges = _keys(reader, keys)
    found: dict[str, Tensor] = {}
    offset, alignment = 0, int(metadata.get("general.alignment", ALIGNMENT))
    for _ in range(tensors):
        tensor, declared = _tensor(reader)
        if tensor.name in found:
            raise HeaderError(f"tensor {tensor.name!r} twice")
        if declared != offset:
            raise HeaderError(f"tensor {tensor.name!r} has the offset {declared}; those before it end at {offset}")
        found[tensor.name] = tensor
        offset += padded(tensor.size, alignment)
    digest = hashlib.sha256(data[: reader.at]).hexdigest()
    header = Header(tuple(found.values()), metadata, reader.at, digest, ranges)
    if file_size is not None and header.least_file_size > file_size:
        raise HeaderError(f"its tensors take {header.least_file_size} bytes, the file has {file_size}")
    return header


def read_first_keys(data: bytes) -> FirstKeys:
    """What the first bytes of a file tell, as far as they go; nothing where they are not GGUF.

    :param data: the file's first bytes; keys about the model come before its vocabulary in practice
    """
    reader = _Reader(data, None)
    metadata: dict[str, Value] = {}
    tensors = 0
    try:
        if reader.take(4) != b"GGUF" or reader.number("<I") not in (2, 3):
            return FirstKeys()
        tensors, keys = reader.number("<Q"), reader.number("<Q")
        for _ in range(keys):
            key = reader.name("key", 1 << 10)
            value = reader.value(reader.number("<I"))
            if value is not None:
                metadata[key] = value
    except HeaderError:
        pass
    return FirstKeys(tensors, metadata)


def _keys(reader: _Reader, count: int) -> tuple[dict[str, Value], dict[str, tuple[int, int]]]:
    """The values that are kept, and where each key begins and ends."""
    metadata: dict[str, Value] = {}
    ranges: dict[str, tuple[int, int]] = {}
    for _ in range(count):
        start = reader.at
        key = reader.name("key", 1 << 10)
        if key in ranges:
            raise HeaderError(f"key {key!r} twice")
        kind = reader.number("<I")
        value = reader.value(kind)
        _check_value(key, kind, value)
        if value is not None:
            metadata[key] = value
        ranges[key] = start, reader.at
    return metadata, ranges


def _check_value(key: str, kind: int, value: Value | None) -> None:
    """Check the keys that decide how the rest of a file is read; llama.cpp ends at the same."""
    if key == "general.alignment":
        if kind != UINT32 or not isinstance(value, int):
            raise HeaderError(f"general.alignment is of type {kind}; llama.cpp reads type {UINT32} (uint32)")
        if value < 1 or value & (value - 1) or value > MAX_ALIGNMENT:
            raise HeaderError(f"general.alignment is {value}, not a power of two from 1 to {MAX_ALIGNMENT}")
    if key == "general.architecture" and not isinstance(value, str):
        raise HeaderError(f"general.architecture is not a text of at most {KEPT_STRING} bytes")


def _tensor(reader: _Reader) -> tuple[Tensor, int]:
    """The next tensor, and the offset of its data."""
    name = reader.name("tensor", MAX_NAME - 1)
    dimensions = reader.number("<I")
    if dimensions > 4:
        raise HeaderError(f"tensor {name!r} has {dimensions} dimensions; ggml supports at most 4")
    # A single number has none, and llama.cpp takes those that a file leaves out as 1 (ggml/src/gguf.cpp:686).
    shape = tuple(reader.number("<Q") for _ in range(dimensions)) or (1,)
    kind = reader.number("<I")
    offset = reader.number("<Q")
    if kind not in TYPES:
        raise HeaderError(f"tensor {name!r} is of type {kind}, which this version of llamarig does not know")
    if math.prod(shape) >= 1 << 63:
        raise HeaderError(f"tensor {name!r} has the shape {shape}, more elements than any file holds")
    label, block, _ = TYPES[kind]
    if shape[0] % block:
        raise HeaderError(f"tensor {name!r} has rows of {shape[0]}, not a multiple of {label}'s block of {block}")
    return Tensor(name, shape, label, tensor_size(shape, kind)), offset


class _Reader:
    """A cursor in the header's bytes that never moves beyond their end."""

    def __init__(self, data: bytes, file_size: int | None) -> None:
        self._data = data
        self._file_size = file_size
        self.at = 0

    def check_length(self, length: int, what: str = "") -> None:
        """Refuse a length of which the rest of the file has less.

        :raises HeaderError: naming what should be there
        """
        if self._file_size is not None and length > self._file_size - self.at:
            raise HeaderError(
                f"claims {what or f'{length} bytes'} from byte {self.at} on, more than a file of "
                f"{self._file_size} bytes holds"
            )

    def skip(self, length: int) -> None:
        self.check_length(length)
        if length > len(self._data) - self.at:
            raise HeaderTruncatedError(f"its header is longer than the {len(self._data)} bytes read")
        self.at += length

    def take(self, length: int) -> bytes:
        begin = self.at
        self.skip(length)
        return self._data[begin : self.at]

    def number(self, layout: str) -> int:
        return int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def name(self, what: str, longest: int) -> str:
        length = self.number("<Q")
        if not 0 < length <= longest:
            raise HeaderError(f"a {what} name of {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise HeaderError(f"a {what} name that is not UTF-8") from None

    def value(self, kind: int) -> Value | None:
        """Read a value; return None for one that is not kept."""
        if kind == _ARRAY:
            element, count = self.number("<I"), self.number("<Q")
            if element == STRING:
                self.check_length(8 * count, f"a list of {count} texts")
                self._skip_strings(count)
            elif element in _SCALARS:
                length = count * struct.calcsize(_SCALARS[element])
                self.check_length(length, f"a list of {count} numbers")
                self.skip(length)
            else:
                raise HeaderError(f"a list of elements of type {element}")
            return None
        if kind == STRING:
            length = self.number("<Q")
            if length > KEPT_STRING:
                self.skip(length)
                return None
            return self.take(length).decode(errors="replace")
        if kind not in _SCALARS:
            raise HeaderError(f"a value of type {kind}")
        layout = _SCALARS[kind]
        scalar: Value = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return scalar

    def _skip_strings(self, count: int) -> None:
        # A vocabulary has 150,000 strings: parsing a header spends its time in this loop.
        data, at, end, length_at = self._data, self.at, len(self._data) - 8, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at > end:
                break
            at += 8 + length_at(data, at)[0]
        else:
            self.skip(at - self.at)
            return
        self.check_length(at - self.at)
        raise HeaderTruncatedError(f"its header is longer than the {len(data)} bytes read")
