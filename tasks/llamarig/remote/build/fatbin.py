"""Reads from a compiled CUDA library for which GPU architectures it has code.

NVIDIA's cuobjdump can do this, but it is not among the toolkit's PyPI packages. The layout of a "fat binary" (magic
0xBA55ED50, then entries with their kind and architecture) is that of the CUDA driver's loader.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_MAGIC = struct.pack("<I", 0xBA55ED50)
_HEADER = struct.Struct("<IHHQ")  # magic, version, size of this header, size of all entries
_ENTRY = struct.Struct("<HHIQ12xI")  # kind, -, size of this header, size of the payload, -, architecture
_KINDS = {1: "virtual", 2: "real"}


def architectures(path: Path) -> list[str]:
    """Architectures in CMake's notation: ``89-real`` for machine code, ``89-virtual`` for PTX."""
    found: set[tuple[int, str]] = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_MAGIC)
        while at >= 0:
            found |= _entries(data, at)
            at = data.find(_MAGIC, at + 4)
    return [f"{number}-{kind}" for number, kind in sorted(found)]


def _entries(data: mmap.mmap, at: int) -> set[tuple[int, str]]:
    if at + _HEADER.size > len(data):
        return set()
    _, version, header_size, size = _HEADER.unpack_from(data, at)
    entry, end = at + header_size, at + header_size + size
    if version != 1 or header_size != _HEADER.size or end > len(data):
        return set()  # the magic number by chance
    found = set()
    while entry + _ENTRY.size <= end:
        kind, _, entry_header, payload, number = _ENTRY.unpack_from(data, entry)
        if entry_header < _ENTRY.size:
            break
        if kind in _KINDS:
            found.add((number, _KINDS[kind]))
        entry += entry_header + payload
    return found
