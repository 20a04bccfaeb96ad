"""Which requests a server has to answer, by its command line, and what counts as an answer."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import pytest
from llamarig.remote.serve.proof_requests import (
    SENTENCE,
    is_answer,
    long_request,
    picture_request,
    probing_request,
    short_request,
)

COMPLETION, EMBEDDINGS, RERANK = ["s"], ["s", "--embeddings", "--ubatch-size", "2048"], ["s", "--rerank"]


@pytest.mark.parametrize(
    ("arguments", "path", "probe"),
    [
        (COMPLETION, "/v1/chat/completions", "/completion"),
        (EMBEDDINGS, "/v1/embeddings", "/v1/embeddings"),
        (RERANK, "/v1/rerank", "/v1/rerank"),
    ],
)
def test_a_server_is_asked_at_its_own_endpoint(arguments: list[str], path: str, probe: str) -> None:
    assert short_request(arguments).path == path
    assert probing_request(arguments).path == probe
    for_long = long_request(arguments, 8192, 10)
    assert for_long is not None
    assert for_long.path == path


@pytest.mark.parametrize("tokens_a_sentence", [10, 41.5, len(SENTENCE)])
@pytest.mark.parametrize(
    ("arguments", "context", "longest"),
    [
        (COMPLETION, 4095, 0),
        (COMPLETION, 4096, 1300),
        (EMBEDDINGS, 8192, 1300),
        (EMBEDDINGS, 1024, 1024),
        (RERANK, 8192, 512),
        ([*RERANK, "--ubatch-size", "128"], 8192, 128),
    ],
)
def test_no_input_has_more_tokens_than_a_server_takes(
    arguments: list[str], context: int, longest: int, tokens_a_sentence: float
) -> None:
    request = long_request(arguments, context, tokens_a_sentence)
    text = json.dumps(request.body) if request else ""
    assert text.count("All the boxes") * tokens_a_sentence <= longest
    assert bool(request) == (longest / tokens_a_sentence >= 4)


@pytest.mark.parametrize(
    ("arguments", "answer", "expected"),
    [
        (COMPLETION, {"usage": {"completion_tokens": 8}}, True),
        (COMPLETION, {"usage": {"completion_tokens": 0}}, False),
        (EMBEDDINGS, {"data": [{"embedding": [0.0, -0.5]}]}, True),
        (EMBEDDINGS, {"data": [{"embedding": [0.0, 0.0]}]}, False),
        (EMBEDDINGS, {"data": [{"embedding": [None, 0.5]}]}, False),
        (EMBEDDINGS, {"data": [{"embedding": []}]}, False),
        (EMBEDDINGS, {"data": {}}, False),
        (EMBEDDINGS, {"usage": {"completion_tokens": 8}}, False),
        (RERANK, {"results": [{"relevance_score": 0.0}, {"relevance_score": -1}]}, True),
        (RERANK, {"results": [{"relevance_score": 0.0}]}, False),
        (RERANK, {"results": [{"relevance_score": None}, {"relevance_score": 1}]}, False),
        (RERANK, {"results": [1, 2]}, False),
    ],
)
def test_an_answer_has_what_was_asked_for(arguments: list[str], answer: dict[str, Any], expected: bool) -> None:
    assert is_answer(arguments, answer) is expected


def test_the_picture_is_a_whole_png_file() -> None:
    (message,) = picture_request().body["messages"]
    url = message["content"][1]["image_url"]["url"]
    content = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert struct.unpack(">I", content[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    assert len(zlib.decompress(chunks[b"IDAT"])) == height * (1 + 3 * width)
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
