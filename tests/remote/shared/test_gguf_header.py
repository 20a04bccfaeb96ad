"""GGUF headers are parsed as by the gguf package, and malformed ones are rejected with one message."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given, settings
from hypothesis import strategies as st
from llamarig.remote.shared.gguf_header import (
    KEPT_STRING,
    MAX_KEYS,
    MAX_TENSORS,
    TYPES,
    UINT32,
    FirstKeys,
    Header,
    HeaderError,
    HeaderTruncatedError,
    Tensor,
    combined_header,
    padded,
    read_first_keys,
    read_header,
    tensor_size,
)

from tests.box.tiny_model import write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("tiny")
    write_shards(directory, "tiny", seed=1)
    return sorted(directory.glob("*.gguf"))


def test_tensors_are_the_same_as_gguf_reads(shards: list[Path]) -> None:
    for shard in shards:
        expected = [
            Tensor(t.name, tuple(int(n) for n in t.shape), t.tensor_type.name, t.n_bytes)
            for t in GGUFReader(shard).tensors
        ]
        assert list(read_header(shard.read_bytes()).tensors) == expected


def test_metadata_keeps_numbers_without_the_vocabulary(shards: list[Path]) -> None:
    metadata = read_header(shards[0].read_bytes()).metadata
    assert metadata["general.architecture"] == "qwen3next"
    assert metadata["qwen3next.ssm.conv_kernel"] == 4
    assert "tokenizer.ggml.tokens" not in metadata


def test_shards_combine_to_one_header(shards: list[Path]) -> None:
    headers = [read_header(shard.read_bytes()) for shard in shards]
    assert len(headers) > 1
    combined = combined_header(headers)
    assert list(combined.tensors) == [tensor for header in headers for tensor in header.tensors]
    assert combined.metadata == headers[0].metadata


def test_a_tensor_without_dimensions_is_one_number() -> None:
    """As llama.cpp reads it (ggml/src/gguf.cpp:686, pinned commit)."""
    (number,) = read_header(header(tensors=1, body=tensor(shape=()))).tensors
    assert (number.shape, number.size) == ((1,), 4)


def test_block_sizes_are_those_of_ggml() -> None:
    # gguf's Python package still has an old size of Q8_1, a type that no file contains.
    others = {kind for kind in GGML_QUANT_SIZES if kind is not GGMLQuantizationType.Q8_1}
    assert {TYPES[kind] for kind in others} == {(kind.name, *GGML_QUANT_SIZES[kind]) for kind in others}


def header(*, tensors: int = 0, keys: int = 0, version: int = 3, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def tensor(name: str = "t", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def alignment(value: int, kind: int = UINT32, layout: str = "<I") -> bytes:
    return text("general.alignment") + struct.pack("<I", kind) + struct.pack(layout, value)


HUGE = 0xFFFF_FFFF_FFFF_FFFF

MALFORMED = {
    "another file": (b"PK\3\4" + bytes(60), "does not begin with GGUF"),
    "version 1": (header(version=1), "GGUF version 1"),
    "the other byte order": (header(version=0x03000000), "GGUF version 50331648"),
    "more tensors than any model": (header(tensors=HUGE), "more than any model has"),
    "more keys than any model": (header(keys=HUGE), "more than any model has"),
    "an endless key": (header(keys=1, body=struct.pack("<Q", HUGE)), "a key name of 18446744073709551615 bytes"),
    "a key without a name": (header(keys=1, body=text("")), "a key name of 0 bytes"),
    "a key twice": (header(keys=2, body=(text("a") + struct.pack("<IB", 0, 1)) * 2), "key 'a' twice"),
    "an unknown type of value": (header(keys=1, body=text("a") + struct.pack("<I", 99)), "a value of type 99"),
    "lists of lists": (header(keys=1, body=text("a") + struct.pack("<IIQ", 9, 9, 1)), "a list of elements of type 9"),
    "a tensor of 4 billion dimensions": (
        header(tensors=1, body=text("t") + struct.pack("<I", 0xFFFFFFFF)),
        "has 4294967295 dimensions",
    ),
    "a tensor larger than any file": (
        header(tensors=1, body=tensor(shape=(1 << 40, 1 << 40))),
        "more elements than any file holds",
    ),
    "an unknown tensor type": (header(tensors=1, body=tensor(kind=77)), "is of type 77, which this version"),
    "a removed tensor type": (header(tensors=1, body=tensor(kind=4)), "is of type 4"),
    "rows that are no blocks": (
        header(tensors=1, body=tensor(shape=(33,), kind=8)),
        "rows of 33, not a multiple",
    ),
    "a tensor twice": (header(tensors=2, body=tensor() * 2), "tensor 't' twice"),
    "an offset inside the tensor before": (
        header(tensors=2, body=tensor("a") + tensor("b", offset=64)),
        "tensor 'b' has the offset 64; those before it end at 128",
    ),
    "an alignment of 0": (header(keys=1, body=alignment(0)), "general.alignment is 0, not a power of two"),
    "an alignment of 3": (header(keys=1, body=alignment(3)), "general.alignment is 3, not a power of two"),
    "an alignment of 256 MiB": (header(keys=1, body=alignment(1 << 28)), "general.alignment is 268435456, not a power"),
    "an alignment that is signed": (header(keys=1, body=alignment(-32, 5, "<i")), "general.alignment is of type 5"),
    "an alignment of 64 bits": (header(keys=1, body=alignment(32, 10, "<Q")), "general.alignment is of type 10"),
    "an alignment that is a list": (
        header(keys=1, body=text("general.alignment") + struct.pack("<IIQI", 9, UINT32, 1, 32)),
        "general.alignment is of type 9",
    ),
    "an architecture that is a number": (
        header(keys=1, body=text("general.architecture") + struct.pack("<II", UINT32, 1)),
        "general.architecture is not a text",
    ),
    "an architecture of a kilobyte": (
        header(keys=1, body=text("general.architecture") + struct.pack("<I", 8) + text("x" * 1024)),
        "general.architecture is not a text of at most 80 bytes",
    ),
    "a tensor name that is too long": (header(tensors=1, body=tensor("x" * 64)), "a tensor name of 64 bytes"),
    "a name that is no text": (
        header(tensors=1, body=struct.pack("<Q", 2) + b"\xff\xfe"),
        "a tensor name that is not UTF-8",
    ),
}


@pytest.mark.parametrize(("data", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_bytes_are_rejected_with_a_reason(data: bytes, message: str) -> None:
    with pytest.raises(HeaderError, match=message) as rejected:
        read_header(data)
    assert not isinstance(rejected.value, HeaderTruncatedError)


BEYOND_THE_FILE = {
    "tensors": (
        header(tensors=2000, body=bytes(1000)),
        "claims 2000 tensors and 0 keys from byte 24 on, more than a file",
    ),
    "keys": (header(keys=2000, body=bytes(1000)), "claims 0 tensors and 2000 keys from byte 24 on"),
    "a text": (header(keys=1, body=text("a") + struct.pack("<IQ", 8, HUGE)), "claims 18446744073709551615 bytes from"),
    "texts": (
        header(keys=1, body=text("a") + struct.pack("<IIQ", 9, 8, HUGE)),
        "claims a list of 18446744073709551615 texts",
    ),
    "a text of a list": (
        header(keys=1, body=text("a") + struct.pack("<IIQQ", 9, 8, 2, HUGE) + bytes(8)),
        "claims 18446744073709551623 bytes from",
    ),
    "numbers": (header(keys=1, body=text("a") + struct.pack("<IIQ", 9, 4, 4096)), "claims a list of 4096 numbers"),
    "a tensor's data": (
        header(tensors=1, body=tensor(shape=(1 << 20,))),
        "its tensors take 4194368 bytes, the file has 1024",
    ),
}


@pytest.mark.parametrize(("data", "message"), BEYOND_THE_FILE.values(), ids=BEYOND_THE_FILE.keys())
def test_what_the_file_cannot_hold_is_rejected_and_no_more_is_read(data: bytes, message: str) -> None:
    with pytest.raises(HeaderError, match=message) as rejected:
        read_header(data, file_size=1024)
    assert not isinstance(rejected.value, HeaderTruncatedError)


def test_the_largest_alignment_is_accepted() -> None:
    found = read_header(header(keys=1, tensors=2, body=alignment(1 << 16) + tensor("a") + tensor("b", offset=1 << 16)))
    assert found.alignment == 1 << 16
    assert found.least_file_size == (2 << 16) + 128


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(text("a") + struct.pack("<IQ", 8, HUGE), id="a text of 16 EiB"),
        pytest.param(text("a") + struct.pack("<IIQ", 9, 8, HUGE), id="2^64 texts"),
        pytest.param(text("a") + struct.pack("<IIQQ", 9, 8, HUGE, HUGE), id="2^64 texts, the first of 16 EiB"),
        pytest.param(text("a") + struct.pack("<IIQ", 9, 12, HUGE), id="2^64 numbers"),
        pytest.param(text("a") + struct.pack("<IIQ", 9, 4, 4096), id="numbers that are not there"),
    ],
)
def test_a_length_beyond_the_data_is_a_truncation_and_allocates_nothing(body: bytes) -> None:
    with pytest.raises(HeaderTruncatedError):
        read_header(header(keys=1, body=body))


def test_every_truncation_is_detected(shards: list[Path]) -> None:
    data = shards[0].read_bytes()
    whole = len(data)
    while True:
        try:
            read_header(data[: whole // 2])
        except HeaderTruncatedError:
            break
        whole //= 2
    for length in range(0, whole // 2, 97):
        with pytest.raises(HeaderTruncatedError):
            read_header(data[:length])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_changed_bytes_are_parsed_or_rejected(data: st.DataObject, shards: list[Path]) -> None:
    original = shards[0].read_bytes()[:40000]
    broken = bytearray(original)
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
    with suppress(HeaderError):
        assert isinstance(read_header(bytes(broken)), Header)


NUMBERS = st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**32 - 1, 2**40, 2**62, 2**63, HUGE]))
VALUES = st.one_of(
    st.tuples(st.sampled_from([0, 1, 7]), st.binary(min_size=1, max_size=1)),
    st.tuples(
        st.just(8), NUMBERS.map(lambda length: struct.pack("<Q", length)).flatmap(lambda head: _with_bytes(head))
    ),
    st.tuples(
        st.just(9),
        st.tuples(st.integers(0, 13), NUMBERS)
        .map(lambda pair: struct.pack("<IQ", *pair))
        .flatmap(lambda head: _with_bytes(head)),
    ),
    st.tuples(st.integers(10, 2**32 - 1), st.binary(max_size=16)),
)


def _with_bytes(head: bytes) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=64).map(lambda tail: head + tail)


@st.composite
def generated_header(draw: st.DrawFn) -> bytes:
    """A header whose parts are each well formed or wrong: random bytes would fail at the first part."""
    keys = draw(st.lists(st.tuples(st.text(min_size=1, max_size=8), VALUES), max_size=6))
    body = b"".join(text(key) + struct.pack("<I", kind) + value for key, (kind, value) in keys)
    tensors = draw(
        st.lists(
            st.tuples(
                st.text(max_size=70),
                st.lists(NUMBERS, max_size=5),
                st.integers(0, 45),
                NUMBERS.filter(lambda n: n <= HUGE),
            ),
            max_size=6,
        )
    )
    end = 0
    for name, shape, kind, declared in tensors:
        offset = end if draw(st.integers(0, 7)) else declared
        if kind in TYPES and shape:
            end = min(padded(end + tensor_size(shape, kind), 32), HUGE)
        body += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    counts = {
        "tensors": draw(st.one_of(st.just(len(tensors)), NUMBERS)),
        "keys": draw(st.one_of(st.just(len(keys)), NUMBERS)),
    }
    return header(**counts, body=body + draw(st.binary(max_size=32)))


def _read(data: bytes) -> tuple[Header | None, str]:
    try:
        return read_header(data), ""
    except HeaderError as error:
        return None, str(error)


@settings(max_examples=200, deadline=None)
@given(data=generated_header())
def test_generated_headers_are_parsed_or_rejected_in_one_line(data: bytes) -> None:
    found, message = _read(data)
    if found is None:
        assert "\n" not in message
        assert 0 < len(message) < 400
        return
    assert found.length <= len(data)
    assert found.least_file_size >= found.length
    again = read_header(data[: found.length])
    assert (again.tensors, again.length, again.sha256) == (found.tensors, found.length, found.sha256)
    with pytest.raises(HeaderTruncatedError):
        read_header(data[: found.length - 1])


GREEDY: dict[str, Callable[[], bytes]] = {
    "65,536 keys": lambda: header(
        keys=MAX_KEYS, body=b"".join(text(f"k{index}") + struct.pack("<IB", 0, 1) for index in range(MAX_KEYS))
    ),
    "lists and nothing else": lambda: header(
        keys=2000,
        body=b"".join(
            text(f"k{index}") + struct.pack("<IIQ", 9, 2, 4096) + bytes(range(256)) * 32 for index in range(2000)
        ),
    ),
    "texts of no length": lambda: header(
        keys=1, body=text("k") + struct.pack("<IIQ", 9, 8, 2_000_000) + bytes(8 * 2_000_000)
    ),
    "65,536 tensors": lambda: header(
        tensors=MAX_TENSORS,
        body=b"".join(tensor(f"blk.{index}.ffn_gate_exps.weight", offset=128 * index) for index in range(MAX_TENSORS)),
    ),
}


@pytest.mark.parametrize("data", [pytest.param(make(), id=name) for name, make in GREEDY.items()])
def test_memory_for_a_hostile_header_is_limited(data: bytes) -> None:
    tracemalloc.start()
    try:
        read_header(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 65,536 tensors are 50 MB of Python objects; the lists alone would be 300, if they were kept.
    assert most < 100 << 20


def test_lists_and_long_strings_are_skipped(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_array("llama.attention.head_count_kv", [8, 0, 8])
    writer.add_array("tokenizer.ggml.tokens", ["token"] * 50000)
    writer.add_string("general.name", "x" * KEPT_STRING)
    writer.add_string("tokenizer.chat_template", "x" * (KEPT_STRING + 1))
    writer.add_uint32("llama.block_count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = read_header((tmp_path / "x.gguf").read_bytes()).metadata
    assert metadata == {"general.architecture": "llama", "general.name": "x" * KEPT_STRING, "llama.block_count": 3}


def test_the_architecture_is_read_from_the_first_bytes(shards: list[Path]) -> None:
    data = shards[0].read_bytes()
    assert read_first_keys(data[:4096]).architecture == "qwen3next"
    assert read_first_keys(data[:40]).architecture is None, "cut off before it"
    assert read_first_keys(shards[1].read_bytes()[:4096]).architecture is None, "a later shard has none"
    assert read_first_keys(b"PK" + data[2:4096]) == FirstKeys()
    number = header(keys=1, body=text("general.architecture") + struct.pack("<If", 6, 1.0))
    assert read_first_keys(number).architecture is None


def test_the_first_bytes_tell_the_number_of_tensors_and_keys_up_to_their_end(shards: list[Path]) -> None:
    data = shards[0].read_bytes()
    whole, first = read_header(data), read_first_keys(data)
    assert (first.tensors, first.metadata) == (len(whole.tensors), whole.metadata)
    assert read_first_keys(data[:600]).metadata.items() < whole.metadata.items()
