"""Many small questions in one command: each answer behind a line that says which it is."""

from __future__ import annotations

from collections.abc import Iterable

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
    text = lines[0].strip() if lines else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
