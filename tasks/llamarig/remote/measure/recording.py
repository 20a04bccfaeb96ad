"""Reads a recorded conversation: JSON lines, each a message of OpenAI's chat API, the first perhaps the tools.

    {"tools": [{"type": "function", "function": {"name": "read", ...}}]}
    {"role": "system", "content": "You are ..."}
    {"role": "user", "content": "What does main.c do?"}
    {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {...}}]}
    {"role": "tool", "tool_call_id": "1", "content": "int main..."}
    {"role": "assistant", "content": "It ..."}

Each message of the assistant is one request: what was said before it is sent, as many tokens are generated as it has,
and it stays in the conversation in place of what was generated, so that every replay asks the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ROLES = ("system", "developer", "user", "assistant", "tool")
LARGEST = 64 << 20
"""Bytes of a recording."""


@dataclass(frozen=True)
class Exchange:
    """One request of a recorded conversation: the messages before it, and the text that was answered."""

    messages: Sequence[dict[str, Any]]
    answer: str


@dataclass(frozen=True)
class Recording:
    """A recorded conversation. ``tools``: as they were offered, may be empty."""

    tools: Sequence[dict[str, Any]]
    exchanges: Sequence[Exchange]


def parse_recording(text: str) -> Recording:
    """Parse a recorded conversation.

    :raises ValueError: naming the line that is wrong, and never its content, which is private
    """
    tools: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    exchanges = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        value = _object(line, number)
        if not messages and not tools and set(value) == {"tools"}:
            tools = _tools(value["tools"], number)
            continue
        role = value.get("role")
        if role not in _ROLES:
            raise ValueError(f"line {number} is no message: its role is none of {', '.join(_ROLES)}")
        if role == "assistant" and messages:
            exchanges.append(Exchange(tuple(messages), _answered(value)))
        messages.append(value)
    if not exchanges:
        raise ValueError("it has no message of the assistant that answers another one, so there is nothing to replay")
    return Recording(tuple(tools), tuple(exchanges))


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"line {number} is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError(f"line {number} is not an object")
    return value


def _tools(value: Any, number: int) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise ValueError(f"line {number}: tools are a list of objects")
    return value


def _answered(message: dict[str, Any]) -> str:
    """All that the assistant has written: its reasoning, its text, and the calls of tools."""
    parts = [message.get("reasoning_content"), message.get("content")]
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        parts += [json.dumps(call.get("function")) for call in calls if isinstance(call, dict)]
    return "\n".join(part if isinstance(part, str) else json.dumps(part) for part in parts if part)
