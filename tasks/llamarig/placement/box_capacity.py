"""The RAM, CPUs and GPUs of a box, as lints and the load mode decision need them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MAX_CPU = 8191
"""Highest CPU number of Linux (NR_CPUS is at most 8192); ranges are not expanded beyond it."""


@dataclass(frozen=True)
class BoxCapacity:
    """``ram`` and ``vram`` in bytes, 0 if unknown; ``cpus``: numbers of the online CPUs, empty if unknown.

    ``gpus``: UUIDs, None if unknown.
    """

    ram: int = 0
    cpus: frozenset[int] = frozenset()
    gpus: frozenset[str] | None = None
    vram: int = 0
    """Sum over all GPUs; read only when a lint needs it."""
    shared: bool = False
    """Whether every GPU of the box has the RAM as its memory."""
    set_aside: int = 0
    """Bytes that the firmware keeps for such GPUs, beside ``ram``."""
    kernel: str = ""
    """Kernel release, as printed by ``uname -r``."""


def parse_cpu_list(text: str) -> frozenset[int]:
    """CPU numbers of a list such as ``0-3,8,10-11``, separated by commas or spaces; empty if it is malformed."""
    cpus: set[int] = set()
    for part in text.replace(",", " ").split():
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if match is None:
            return frozenset()
        first, last = int(match[1]), int(match[2] or match[1])
        cpus |= {first, last, *range(first, min(last, _MAX_CPU) + 1)}
    return frozenset(cpus)
