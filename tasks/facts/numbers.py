"""Whole numbers that a box printed, which may be anything."""

from __future__ import annotations


def whole(text: str) -> int | None:
    """The number of decimal digits (18 at most, so no answer is too long to be read), None for anything else."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
