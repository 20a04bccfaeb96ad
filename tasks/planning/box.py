"""What lints need to know of a box: its RAM, its CPUs, its GPUs."""

from __future__ import annotations

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


def cpu_list(text: str) -> frozenset[int]:
    """``0-3,8,10-11`` (or with spaces between) as numbers; empty for what is no such list."""
    cpus: set[int] = set()
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last.isdigit() or not last)):
            return frozenset()
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)
