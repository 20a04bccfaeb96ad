"""A constructor of a declaration with its arguments, and its text in Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

WIDTH = 120


@dataclass(frozen=True)
class Call:
    """``d.NAME(field=value, ...)``. ``comments``: field -> a comment before it."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    comments: Mapping[str, str] = field(default_factory=dict)


def python_text(call: Call, indent: int = 0, *, whole: bool = False) -> str:
    """The text, formatted as `ruff format` does it, without the indent of its first line.

    :param whole: one argument a line, however short it is
    """
    if not whole and not call.comments and len(short := _short(call)) <= WIDTH - indent - 1:
        return short
    inner = " " * (indent + 4)
    lines = [f"d.{call.name}("]
    for name, value in call.arguments.items():
        if comment := call.comments.get(name):
            lines.append(f"{inner}# {comment}")
        nested = name == "serve"
        prefix = f"{name}="
        if isinstance(value, Call):
            text = python_text(value, indent + 4, whole=nested)
            if "\n" not in text and len(inner) + len(prefix) + len(text) + 1 > WIDTH:
                text = python_text(value, indent + 4, whole=True)
        else:
            text = _value(value, indent + 4, len(prefix))
        lines.append(f"{inner}{prefix}{text},")
    return "\n".join([*lines, f"{' ' * indent})"])


def _short(call: Call) -> str:
    return f"d.{call.name}({', '.join(f'{name}={literal(value)}' for name, value in call.arguments.items())})"


def _value(value: Any, indent: int, prefix: int) -> str:
    """A value on one line, or with one item a line where it is too long for that."""
    text = literal(value)
    if indent + prefix + len(text) + 1 <= WIDTH or not isinstance(value, tuple | dict):
        return text
    inner = " " * (indent + 4)
    opening, closing = "()" if isinstance(value, tuple) else "{}"
    return "\n".join([opening, *(f"{inner}{item}," for item in _items(value)), f"{' ' * indent}{closing}"])


def _items(value: tuple[Any, ...] | dict[str, Any]) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (f"{literal(key)}: {literal(item)}" for key, item in value.items())
    else:
        yield from map(literal, value)


def literal(value: Any) -> str:
    """A value as Python writes it, texts in double quotes where that needs no more escapes."""
    if isinstance(value, Call):
        return _short(value)
    if isinstance(value, tuple):
        items = ", ".join(map(literal, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{literal(key)}: {literal(item)}' for key, item in value.items())}}}"
    text = repr(value)
    if isinstance(value, str) and text.startswith("'") and '"' not in value:
        return f'"{text[1:-1]}"'
    return text
