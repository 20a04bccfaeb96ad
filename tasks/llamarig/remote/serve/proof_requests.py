"""Requests that show whether a server does what it is for: completions, embeddings or reranking, and pictures.

What it is for is read from its command line, as rendered by render/server_arguments.py.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SENTENCE = "All the boxes in the house hum quietly at night. "
_LONG_TOKENS = 1200
"""Real regressions answered prompts of 20 tokens and crashed at 100 (llama.cpp #19816)."""
MOST_TOKENS_A_SENTENCE = len(SENTENCE)
"""Of a tokenizer that has a token for each character."""
_PICTURE_PIXELS = 128
_DEFAULT_UBATCH = 512
"""llama.cpp's (common/common.h, pinned commit)."""


@dataclass(frozen=True)
class Request:
    """A request: its path, its body, and in words what it asks for."""

    path: str
    body: dict[str, Any]
    what: str


def short_request(arguments: Sequence[str]) -> Request:
    """A request with a short text, for the server with this command line."""
    return _request(arguments, "Say hello.", _what(arguments))


def long_request(arguments: Sequence[str], context: int, tokens_a_sentence: float) -> Request | None:
    """A request with a long text; None where the server takes none that is much longer.

    Embeddings are computed in one ubatch, unless they are the last token's (can_split in
    tools/server/server-context.cpp, pinned commit).

    :param context: of a slot, in tokens
    :param tokens_a_sentence: of SENTENCE, as the server counts them
    """
    what = f"{_what(arguments)} of a long prompt"
    if task_of(arguments) == "completion":
        if context < 4096:
            return None
        return _request(arguments, SENTENCE * math.ceil(_LONG_TOKENS / tokens_a_sentence), what)
    most = min(_LONG_TOKENS, longest_input(arguments, context))
    # Two less, for what else is in a request: the query and the tokens between it and the document.
    sentences = int(most / tokens_a_sentence) - 2
    return _request(arguments, SENTENCE * sentences, what) if sentences > 1 else None


def longest_input(arguments: Sequence[str], context: int) -> int:
    """Tokens that an embeddings or reranking server surely takes at once: what fits into its ubatch."""
    flags = {flag: arguments[index + 1] for index, flag in enumerate(arguments[:-1])}
    ubatch = flags.get("--ubatch-size", "")
    return min(context, int(ubatch) if ubatch.isdigit() else _DEFAULT_UBATCH)


def probing_request(arguments: Sequence[str]) -> Request:
    """A request that is answered quickly and leaves no prompt in the cache."""
    if task_of(arguments) == "completion":
        return Request("/completion", {"prompt": "1", "n_predict": 1, "cache_prompt": False}, "completion")
    return short_request(arguments)


def picture_request() -> Request:
    """A completion of a prompt with a picture."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png()}"}}
    return _completion([{"type": "text", "text": "What is in this picture?"}, picture], "completion with a picture")


def is_answer(arguments: Sequence[str], answer: dict[str, Any]) -> bool:
    """Whether an answer to one of these requests has the requested content."""
    task = task_of(arguments)
    if task == "embeddings":
        return _are_numbers(nested(_first(answer.get("data")), "embedding"))
    if task == "rerank":
        results = answer.get("results")
        scores = [nested(one, "relevance_score") for one in results] if isinstance(results, list) else []
        return len(scores) == 2 and all(map(_is_number, scores))
    return bool(nested(answer, "usage", "completion_tokens"))


def nested(answer: Any, *names: str) -> Any:
    """Return the value under these keys, one inside the other; None where the answer has another shape."""
    for name in names:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer


def task_of(arguments: Sequence[str]) -> str:
    """What the server with this command line is for: ``completion``, ``embeddings`` or ``rerank``."""
    if "--rerank" in arguments:
        return "rerank"
    return "embeddings" if "--embeddings" in arguments else "completion"


def _what(arguments: Sequence[str]) -> str:
    return {"embeddings": "embedding", "rerank": "reranking"}.get(task_of(arguments), "completion")


def _request(arguments: Sequence[str], text: str, what: str) -> Request:
    task = task_of(arguments)
    if task == "embeddings":
        return Request("/v1/embeddings", {"input": text}, what)
    if task == "rerank":
        return Request("/v1/rerank", {"query": "Which box hums?", "documents": [text, "It is quiet."]}, what)
    return _completion(text, what)


def _completion(content: Any, what: str) -> Request:
    messages = [{"role": "user", "content": content}]
    body = {"messages": messages, "max_tokens": 8, "temperature": 0, "cache_prompt": False}
    return Request("/v1/chat/completions", body, what)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _are_numbers(value: Any) -> bool:
    """Whether this is a vector. One of zeros is what llama.cpp returns where it has computed none."""
    return isinstance(value, list) and any(value) and all(map(_is_number, value))


def _png() -> str:
    """A colour gradient as a PNG file, in base64."""
    side = range(_PICTURE_PIXELS)
    rows = b"".join(b"\0" + bytes(value for x in side for value in (2 * x, 2 * y, 255 - x - y)) for y in side)
    size = struct.pack(">IIBBBBB", _PICTURE_PIXELS, _PICTURE_PIXELS, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    file = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        file += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return base64.b64encode(file).decode()
