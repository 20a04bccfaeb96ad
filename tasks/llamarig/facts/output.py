"""Parse the output of commands, which is not trusted: numbers, JSON, base64, blocks, and named sections.

Sections are the output of several commands that were combined into one::

    == swappiness
    60

    == cpus
    0,0,0
    1,1,0
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

_MARK = "== "


def sections_command(commands: Mapping[str, str]) -> str:
    """Combine the command of each section. The section of a command that fails is empty, and the next one runs.

    Output is in English whatever the locale of the box. PATH is completed, because a login's may lack sbin.
    """
    sections = [f"echo '{_MARK}{name}'; {{ {command}; }} 2>/dev/null; echo" for name, command in commands.items()]
    return "; ".join(["export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin", *sections, "true"])


def parse_sections(output: Iterable[str]) -> defaultdict[str, list[str]]:
    """Section name -> its lines, without blank ones; none for a missing section. Lines before the first are ignored."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    lines: list[str] = []
    for line in output:
        if line.startswith(_MARK):
            lines = found[line.removeprefix(_MARK).strip()]
        elif line.strip():
            lines.append(line.rstrip("\r\n"))
    return found


def section_number(lines: list[str]) -> int | None:
    """Parse the first line of a section as a whole number; None where it is none."""
    return whole_number(lines[0]) if lines else None


def parse_blocks(output: Iterable[str], first: str) -> dict[str, dict[str, str]]:
    """Parse ``key=value`` lines in blocks, each of which begins with the key ``first``.

    :returns: value of ``first`` -> the other keys and values of its block
    """
    found: dict[str, dict[str, str]] = {}
    values: dict[str, str] = {}
    for line in output:
        key, _, value = line.partition("=")
        if key == first:
            values = found[value] = {}
        else:
            values[key] = value
    return found


def decode_base64(text: str) -> str:
    """Decode text in base64; empty where it is not valid."""
    try:
        return base64.b64decode(text, validate=True).decode(errors="replace")
    except (binascii.Error, ValueError):
        return ""


def whole_number(text: str) -> int | None:
    """Parse 1 to 18 ASCII digits; None for anything else. (Python refuses to parse thousands of digits.)"""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def decimal_number(text: str) -> float | None:
    """Parse ASCII digits with a point between them; None for anything else."""
    whole, _, fraction = text.strip().partition(".")
    if whole_number(whole) is None or (fraction and whole_number(fraction) is None):
        return None
    return float(f"{whole}.{fraction or 0}")


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object; an empty one for invalid JSON, JSON nested too deeply, and any other value."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
