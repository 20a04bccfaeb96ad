"""Which model a request names, and what its body gets from an alias."""

from __future__ import annotations

import json

import pytest
from llamarig.remote.front.json_members import Members
from llamarig.remote.front.names import Choice, Names, UnknownModelError, with_defaults
from llamarig.remote.front.settings import FrontAlias, FrontModel

FAST = {"temperature": 0.2, "chat_template_kwargs": {"enable_thinking": False}}
MODELS = [
    FrontModel(
        "qwen3-coder",
        "llamarig-qwen3-coder.service",
        "http://127.0.0.1:1",
        1,
        0,
        "x",
        aliases=(FrontAlias("fast", FAST),),
    ),
    FrontModel("gpt-oss", "llamarig-gpt-oss.service", "http://127.0.0.1:2", 1, 0, "y"),
]
NAMES = Names(MODELS, "gpt-oss")


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("qwen3-coder", Choice("qwen3-coder")),
        ("fast", Choice("qwen3-coder", FAST)),
        (None, Choice("gpt-oss")),
        ("", Choice("gpt-oss")),
    ],
)
def test_a_name_chooses_a_model(name: str | None, choice: Choice) -> None:
    assert NAMES.choose(name) == choice


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownModelError) as raised:
        NAMES.choose("qwen3-codr")
    assert str(raised.value) == (
        'no model is called "qwen3-codr" (did you mean qwen3-coder?): there are qwen3-coder, fast, gpt-oss'
    )


def test_a_key_sees_its_own_models_alone() -> None:
    assert NAMES.choose("gpt-oss", {"gpt-oss"}) == Choice("gpt-oss")
    with pytest.raises(UnknownModelError) as raised:
        NAMES.choose("fast", {"gpt-oss"})
    assert str(raised.value) == 'no model is called "fast": there are gpt-oss'


def test_a_long_name_is_cut_and_escaped() -> None:
    with pytest.raises(UnknownModelError) as raised:
        NAMES.choose("\x1b[31m" + "x" * 10_000)
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize(
    ("body", "merged"),
    [
        ('{"model": "fast"}', {"model": "fast", **FAST}),
        (' { "temperature": 1, "model": "fast"}', {"temperature": 1, "model": "fast", **FAST} | {"temperature": 1}),
    ],
)
def test_a_body_gets_the_defaults_that_it_lacks(body: str, merged: dict[str, object]) -> None:
    found = Members(("model", *FAST))
    found.feed(body.encode())
    found.end()
    inserted = with_defaults(FAST, found.found.keys()).decode()
    assert json.loads(body[: found.start] + inserted + body[found.start :]) == merged
