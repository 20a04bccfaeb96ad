"""CPU numbers as other programs write them, as systemd's CPUAffinity= reads them."""

from __future__ import annotations

import re

from llamarig.placement.model_layers import ranges


def cpus_of_list(text: str) -> str | None:
    """``0-11``, ``0,2,4``, also with a stride (``0-11:2``), or words with spaces; None for anything else."""
    numbers: set[int] = set()
    for part in re.split(r"[,\s]+", text.strip()):
        found = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if found is None:
            return None
        first = int(found[1])
        numbers |= set(range(first, int(found[2] or first) + 1, int(found[3] or 1)))
    return _written(numbers)


def cpus_of_mask(text: str) -> str | None:
    """taskset's hexadecimal mask, with or without 0x; None for anything else."""
    if not re.fullmatch(r"(0[xX])?[0-9a-fA-F,]+", text):
        return None
    mask = int(text.replace(",", ""), 16)
    return _written({bit for bit in range(mask.bit_length()) if mask >> bit & 1})


def _written(numbers: set[int]) -> str | None:
    return ranges(sorted(numbers)).replace(", ", ",") if numbers and max(numbers) < 4096 else None
