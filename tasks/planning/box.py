"""What lints need to know of a box: its RAM, its CPUs, its GPUs."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """``ram`` and ``vram`` in bytes, 0 where unknown; ``cpus`` the numbers of those online.

    ``gpus``: UUIDs, None where unknown.
    """

    ram: int = 0
    cpus: frozenset[int] = frozenset()
    gpus: frozenset[str] | None = None
    vram: int = 0
    """Of all cards together; asked only where a lint needs it."""
    kernel: str = ""
    """Its release, as `uname -r` prints it."""


def cpu_list(text: str) -> frozenset[int]:
    """``0-3,8,10-11`` (or with spaces between) as numbers; empty for what is no such list.

    Numbers of at most four digits: Linux knows 8192 CPUs at the most (NR_CPUS).
    """
    cpus: set[int] = set()
    for part in text.replace(",", " ").split():
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        if match is None:
            return frozenset()
        cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(cpus)
