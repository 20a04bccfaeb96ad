"""What one attempt to download a file needs to know."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Transfer:
    """One attempt. ``url`` may be signed, and ``headers`` may hold a token: both are secret.

    ``part``: path of the partial file, which exists; ``size``: of the whole file, in bytes; ``chunk``: bytes of
    hf_transfer's requests, and the fewest of other ones; ``patience_s``: seconds without data before it fails.
    """

    url: str
    headers: dict[str, str]
    proxy: str | None
    part: str
    size: int
    connections: int
    chunk: int
    patience_s: float


def without_signature(text: str) -> str:
    """The text with the query removed from every URL: with a signed URL, anyone can download the file for an hour."""
    return re.sub(r"(https?://[^\s?)]+)\?[^\s)]+", r"\1", text)
