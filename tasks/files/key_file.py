"""The one reader of API key files, which knows what llama-server makes of each byte. Runs on the box.

llama-server (common/arg.cpp) takes every line that is not empty and does not begin with `#` for a key, as it is: a
carriage return, a byte order mark or a space at an end becomes part of the key, and a file without a key opens the
server to everyone. No message of this module ever holds a part of the file. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import re
from pathlib import Path

LARGEST = 64 << 10
"""Bytes; a file beyond this is something else, named by mistake."""

# What is wrong with a file: tasks/facts/key_files.py finds the same with a shell, on a box without our programs.
MISSING = "is not there"
NOT_A_FILE = "is no regular file"
TOO_LARGE = f"is larger than {LARGEST >> 10} KiB, so no list of keys"
EMPTY = "is empty"
BOM = "begins with a byte order mark (BOM), which llama-server takes for a part of the first line"
CR = "has carriage returns (CR: Windows line ends), which llama-server takes for a part of the keys"
NO_KEY = "has no usable line, only empty ones, comments (#), or lines with blanks at an end or control characters"

USABLE = r"[^\x00-\x1f\x7f# ]([^\x00-\x1f\x7f]*[^\x00-\x1f\x7f ])?"
"""A line that a client can send as it is: no comment, and nothing that a header's value loses or cannot hold."""


class KeyFileError(OSError):
    """There is no key to be had; the message says why, with the path."""


def problem_of(content: bytes) -> str | None:
    """Why a file of this content is not usable, None where it is."""
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
    """The first usable key, a character a byte, as a header's value is sent.

    :raises KeyFileError: when the file cannot be used
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
