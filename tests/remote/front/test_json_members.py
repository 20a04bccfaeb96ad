"""Members of a JSON object that comes in pieces, compared with a parser that has all of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamarig.remote.front.json_members import DEEPEST, LONGEST, JsonError, Members, text_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.sampled_from(["model", "stream", "messages", '\\"', "}", ""]) | st.text(), JSON)


def members(body: bytes, size: int = 1 << 20, wanted: tuple[str, ...] = ("model", "stream")) -> Members:
    found = Members(wanted)
    for start in range(0, len(body), size):
        found.feed(body[start : start + size])
    found.end()
    return found


@given(value=OBJECTS, size=st.integers(1, 40), is_ascii=st.booleans(), indent=st.sampled_from([None, 1]))
@settings(max_examples=200)
def test_it_finds_what_a_parser_finds(value: dict[str, Any], size: int, is_ascii: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode(errors="surrogatepass")
    found = members(body, size)
    assert set(found.found) == {"model", "stream"} & value.keys()
    for name, text in found.found.items():
        if isinstance(value[name], list | dict):
            assert text == b""
        else:
            assert json.loads(text.decode(errors="surrogatepass")) == value[name]
    assert found.is_empty == (not value)
    assert body[: found.start].strip() == b"{"


def test_the_last_of_a_repeated_member_counts() -> None:
    assert members(b'{"model": "a", "model": "b"}').found == {"model": b'"b"'}


def test_a_name_with_escapes_is_the_same_name() -> None:
    assert members(rb'{"mod\u0065l": "a"}').found == {"model": b'"a"'}


def test_a_member_of_an_inner_object_is_none_of_the_body() -> None:
    body = b'{"x": {"model": "a"}, "y": [{"model": "b"}], "z": "\\", \\"model\\": \\"c\\""}'
    assert members(body).found == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[1]",
        b'{"model": "a"',
        b'{"model": "a}',
        b'{"model": "a"]',
        b'{"model": "a"} {',
        b'{"model": "a"} x',
        b'x {"model": "a"}',
        b"{1: 2}",
        b'{"a" "b": 2}',
        b"[" * (DEEPEST + 1),
        b'{"a": ' * (DEEPEST + 1),
    ],
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(JsonError):
        members(body)


def test_it_holds_little_of_a_large_body() -> None:
    found = Members(("model",))
    found.feed(b'{"image": "')
    for _ in range(64):
        found.feed(b"A" * (1 << 20))
        assert len(found._text) <= 2 * LONGEST + 2
    found.feed(b'", "model": "a"}')
    found.end()
    assert found.found == {"model": b'"a"'}


def test_a_model_name_longer_than_any_is_no_text() -> None:
    body = b'{"model": "' + b"a" * (2 * LONGEST) + b'"}'
    assert text_of(members(body).found["model"]) is None


def test_the_text_of_a_value() -> None:
    assert text_of(rb'"qwen\u0033:fast"') == "qwen3:fast"
    assert text_of(b"3") is None
    for bad in (b'"\xff"', rb'"\x"', rb'"\ud800"', b'"a'):
        with pytest.raises(JsonError):
            text_of(bad)
