"""Parse whole numbers from untrusted output."""

from __future__ import annotations


def whole_number(text: str) -> int | None:
    """Parse 1 to 18 ASCII digits; None for anything else. (Python refuses to parse thousands of digits.)"""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
