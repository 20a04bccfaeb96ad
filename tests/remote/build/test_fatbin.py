"""Architectures read from a CUDA library; a real one is compiled by tests/box/test_cuda_build.py."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from llamarig.remote.build.fatbin import architectures

MAGIC = 0xBA55ED50


def entry(kind: int, number: int, payload: bytes) -> bytes:
    return struct.pack("<HHIQ12xI", kind, 0x101, 64, len(payload), number).ljust(64, b"\0") + payload


def fatbin(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", MAGIC, 1, 16, len(body)) + body


def test_machine_code_and_ptx(tmp_path: Path) -> None:
    library = tmp_path / "library"
    first = fatbin(entry(2, 89, b"x" * 80), entry(2, 120, b"y" * 8))
    library.write_bytes(b"ELF..." + first + b"padding" + fatbin(entry(1, 75, b"ptx")))
    assert architectures(library) == ["75-virtual", "89-real", "120-real"]


@given(st.binary(max_size=400))
def test_any_bytes_can_be_read(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as library:
        library.write(b"." + fatbin(entry(2, 89, b"x"))[: len(data)] + data)
        library.flush()
        assert isinstance(architectures(Path(library.name)), list)
