"""What one attempt to download a file needs to know, and the ways in which it fails."""

from __future__ import annotations

import re
from dataclasses import dataclass

_URL = re.compile(r"(https?://[^\s?#)]+)[?#](.*)", re.IGNORECASE)
"""A URL with a query, and the rest of its line."""


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
    """The text with the query removed from every URL: with a signed URL, anyone can download the file for an hour.

    A query may contain spaces, so it reaches to the last word of the line that belongs to one, with & or =.
    """
    return "\n".join(_URL.sub(_without_query, line) for line in text.split("\n"))


def _without_query(found: re.Match[str]) -> str:
    words = re.split(r"(\s+)", found[2])
    last = max((number for number, word in enumerate(words) if "&" in word or "=" in word), default=0)
    # What closes the sentence around the URL stays.
    closing = re.search(r"[)\]>'\".,:;]*$", words[last])
    return found[1] + (closing[0] if closing else "") + "".join(words[last + 1 :])


class RetryableError(Exception):
    """A failure that may not happen again.

    :param after_s: seconds the server asked to wait (Retry-After)
    :param outage: the server cannot be reached or reports a temporary failure: retried by the clock, not counted
    """

    def __init__(self, message: str, after_s: float | None = None, *, outage: bool = False) -> None:
        super().__init__(message)
        self.after_s, self.outage = after_s, outage


class RangeIgnoredError(RetryableError):
    """The server sent something else than the requested range."""

    def __init__(self, message: str) -> None:
        super().__init__(message, outage=True)


class HfTransferError(RetryableError):
    """hf_transfer failed: retry at once, with Range requests."""

    def __init__(self, message: str) -> None:
        super().__init__(message, after_s=0)


class HfTransferStalledError(HfTransferError):
    """hf_transfer brought no chunk for too long."""


class MismatchError(RetryableError):
    """The whole file arrived, with another sha256 than the locked one."""


class CancelledError(Exception):
    """The job ends because another file failed."""
