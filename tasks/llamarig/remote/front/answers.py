"""Answers of the front itself, in the shapes of OpenAI's, Anthropic's and llama.cpp's APIs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from llamarig.remote.front.names import Names
from llamarig.remote.front.scheduler import ModelState, Phase
from llamarig.remote.front.settings import FrontModel

_KINDS = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("not_found_error", "not_found_error"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_error"),
    503: ("unavailable_error", "overloaded_error"),
}
"""Status -> the kind of error as llama.cpp and OpenAI call it, and as Anthropic does."""
_OTHER = ("server_error", "api_error")
_CREATED = "1970-01-01T00:00:00Z"
_STATUS = {Phase.READY: "loaded", Phase.STARTING: "loading", Phase.STOPPED: "unloaded", Phase.STOPPING: "unloaded"}
"""As llama.cpp's router calls them."""


def error(status: int, message: str, *, is_anthropic: bool) -> bytes:
    """The body of an error."""
    openai, anthropic = _KINDS.get(status, _KINDS[400] if status < 500 else _OTHER)
    if is_anthropic:
        return _json({"type": "error", "error": {"type": anthropic, "message": message}})
    return _json({"error": {"code": status, "message": message, "type": openai}})


def error_event(status: int, message: str, *, is_anthropic: bool) -> bytes:
    """The same within a stream that has begun."""
    name = b"event: error\n" if is_anthropic else b""
    return name + b"data: " + error(status, message, is_anthropic=is_anthropic) + b"\n\n"


def models(
    listed: Iterable[FrontModel], names: Names, states: Mapping[str, ModelState], contexts: Mapping[str, Optional[int]]
) -> bytes:
    """The body of /v1/models: what is declared, by every name, and what of it is loaded.

    ``data`` is OpenAI's and Anthropic's list, with the additions of llama.cpp's; ``models`` is llama.cpp's other one.
    """
    data = []
    for model in listed:
        context = contexts.get(model.name) or model.context or None
        state = states[model.name]
        status = {"value": _STATUS[state.phase], **({"failed": True} if state.problem else {})}
        for name in (model.name, *names.aliases(model.name)):
            data.append(
                {
                    "id": name,
                    "object": "model",
                    "created": 0,
                    "owned_by": "llamarig",
                    "type": "model",
                    "display_name": name,
                    "created_at": _CREATED,
                    "status": status,
                    "meta": {"n_ctx": context},
                    "context_length": context,
                }
            )
    ids = [one["id"] for one in data]
    shown = [
        {"name": one, "model": one, "type": "model", "description": "", "capabilities": ["completion"]} for one in ids
    ]
    ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
    return _json({"object": "list", "data": data, "models": shown, "has_more": False, **ends})


def model(body_of_models: bytes, name: str) -> Optional[bytes]:
    """The body of /v1/models/NAME; None where there is no such model."""
    found = [one for one in json.loads(body_of_models)["data"] if one["id"] == name]
    return _json(found[0]) if found else None


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
