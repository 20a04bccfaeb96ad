"""Many small questions in one command: each answer behind a line that says which it is."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from tasks.facts.numbers import whole

_MARK = "== "


def ask(questions: Iterable[tuple[str, str]]) -> str:
    """One shell command for (name, command) pairs. A question that fails has an empty answer, and the next is asked.

    The tools' words are English whatever the box speaks, and a login's PATH may lack sbin.
    """
    asked = "; ".join(f"echo '{_MARK}{name}'; {{ {command}; }} 2>/dev/null; echo" for name, command in questions)
    return f"export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin; {asked}; true"


def answers(output: Iterable[str]) -> dict[str, list[str]]:
    """Name -> lines that are not empty. What comes before the first mark is nobody's answer."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in output:
        if line.startswith(_MARK):
            lines = found.setdefault(line.removeprefix(_MARK).strip(), [])
        elif line.strip():
            lines.append(line.rstrip("\r\n"))
    return found


def number(lines: list[str] | None) -> int | None:
    """The one whole number an answer is, None where it is none."""
    return whole(lines[0]) if lines else None


def blocks(output: Iterable[str], first: str) -> dict[str, dict[str, str]]:
    """``key=value`` lines, in blocks that each begin with the key ``first``: its value -> the block's other lines."""
    found: dict[str, dict[str, str]] = {}
    values: dict[str, str] = {}
    for line in output:
        key, _, value = line.partition("=")
        if key == first:
            values = found[value] = {}
        else:
            values[key] = value
    return found


def decoded(text: str) -> str:
    """The text that a box sent in base64, empty where it is none."""
    try:
        return base64.b64decode(text, validate=True).decode(errors="replace")
    except (binascii.Error, ValueError):
        return ""
