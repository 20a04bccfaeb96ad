"""Reads API key files as llama-server does, and rejects those whose keys no client could send.

llama-server (common/arg.cpp) uses every line that is not empty and does not begin with `#` as a key, unchanged: a
carriage return, a byte order mark or a space at either end becomes part of the key, and with a file that has no key it
accepts every request. No message of this module contains any part of the file.
"""

from __future__ import annotations

import re
from pathlib import Path

LARGEST = 64 << 10
"""Bytes. A larger file is not a list of keys and was probably named by mistake."""

# Problems of a file. facts/key_files.py detects the same ones by a shell command, before our programs are on the box.
MISSING = "is not there"
NOT_A_FILE = "is not a regular file"
TOO_LARGE = f"is larger than {LARGEST >> 10} KiB, so not a list of keys"
EMPTY = "is empty"
BOM = "begins with a byte order mark (BOM), which llama-server reads as part of the first line"
CR = "has carriage returns (CR, Windows line endings), which llama-server reads as part of the keys"
NO_KEY = "has no usable key, only empty lines, comments (#), or lines with surrounding spaces or control characters"

USABLE = r"[^\x00-\x1f\x7f# ]([^\x00-\x1f\x7f]*[^\x00-\x1f\x7f ])?"
"""A line that is not a comment and that a client can send unchanged as an HTTP header value."""


class KeyFileError(OSError):
    """The file has no usable key; the message has the path and the reason."""


def problem_of(content: bytes) -> str | None:
    """Return why a file with this content is not usable; None where it is."""
    if not content:
        return EMPTY
    if len(content) > LARGEST:
        return TOO_LARGE
    if content.startswith(b"\xef\xbb\xbf"):
        return BOM
    if b"\r" in content:
        return CR
    return None if _keys(content) else NO_KEY


def first_key(path: str) -> str:
    """Return the first usable key, decoded as Latin-1, which is how http.client encodes header values.

    :raises KeyFileError: when the file is not usable
    """
    file = Path(path)
    if not file.exists():
        raise KeyFileError(f"api_key_file {path} {MISSING}")
    if not file.is_file():
        raise KeyFileError(f"api_key_file {path} {NOT_A_FILE}")
    with file.open("rb") as opened:
        content = opened.read(LARGEST + 1)
    if (problem := problem_of(content)) is not None:
        raise KeyFileError(f"api_key_file {path} {problem}")
    return _keys(content)[0]


def _keys(content: bytes) -> list[str]:
    return [line for line in content.decode("latin-1").split("\n") if re.fullmatch(USABLE, line)]
