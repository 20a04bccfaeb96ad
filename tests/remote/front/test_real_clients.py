"""The clients of OpenAI and Anthropic from PyPI against a front: what they send, stream and raise.

The models below are stand-ins; tests/box/test_front.py has a real llama-server.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from llamarig.remote.front.settings import FrontAlias, FrontKey, FrontModel

from tests.remote.front.front_box import FrontBox, front_box

KEY = "0123456789abcdef" * 4
ASKED: Any = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontBox]:
    # Both clients ask it for a header of theirs, once in a process.
    subprocess.run(["uname", "-p"], check=True, stdout=subprocess.DEVNULL)
    keys = (FrontKey("laptop"), FrontKey("phone", models=("embed",)))
    with front_box(tmp_path_factory.mktemp("keyed"), keys=keys) as box:
        box.key("laptop", KEY)
        box.key("phone", KEY[::-1])
        yield box


@pytest.fixture
def of_openai(keyed: FrontBox) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{keyed.port}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def of_anthropic(keyed: FrontBox) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{keyed.port}", api_key=KEY, max_retries=0) as client:
        yield client


def test_openai_lists_and_switches(of_openai: openai.OpenAI) -> None:
    assert [model.id for model in of_openai.models.list()] == ["a", "b", "broken", "embed"]
    for model in ("a", "b"):
        answer = of_openai.chat.completions.create(model=model, messages=ASKED)
        assert answer.model == model


def test_openai_streams_through_a_load(of_openai: openai.OpenAI) -> None:
    """The comments while the model is loaded are none of its events."""
    of_openai.chat.completions.create(model="b", messages=ASKED)
    stream = of_openai.chat.completions.create(model="a", messages=ASKED, stream=True, extra_body={"chunks": 4})
    assert [(event.choices[0].delta.content or "")[:1] for event in stream] == ["0", "1", "2", "3"]


def test_openai_raises_what_the_front_refuses(of_openai: openai.OpenAI, keyed: FrontBox) -> None:
    with pytest.raises(openai.NotFoundError, match='no model is called "x"'):
        of_openai.chat.completions.create(model="x", messages=ASKED)
    with pytest.raises(openai.InternalServerError, match="broken does not start: "):
        of_openai.chat.completions.create(model="broken", messages=ASKED)
    with pytest.raises(openai.AuthenticationError):
        of_openai.with_options(api_key="wrong").models.list()
    phone = of_openai.with_options(api_key=KEY[::-1])
    assert [model.id for model in phone.models.list()] == ["embed"]
    with pytest.raises(openai.NotFoundError):
        phone.chat.completions.create(model="a", messages=ASKED)


def test_anthropic_asks_and_lists(of_anthropic: anthropic.Anthropic) -> None:
    assert [model.id for model in of_anthropic.models.list()] == ["a", "b", "broken", "embed"]
    answer = of_anthropic.messages.create(model="a", max_tokens=8, messages=ASKED)
    assert (answer.model, answer.stop_reason) == ("a", "end_turn")


def test_anthropic_raises_what_the_front_refuses(of_anthropic: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="no model is called"):
        of_anthropic.messages.create(model="x", max_tokens=8, messages=ASKED)
    with pytest.raises(anthropic.AuthenticationError):
        of_anthropic.with_options(api_key="wrong").messages.create(model="a", max_tokens=8, messages=ASKED)


def test_an_alias_brings_its_defaults(tmp_path: Path) -> None:
    def aliased(model: FrontModel) -> FrontModel:
        defaults = {"temperature": 0.2, "chat_template_kwargs": {"enable_thinking": False}}
        return replace(model, aliases=(FrontAlias("a:fast", defaults),)) if model.name == "a" else model

    box = FrontBox(tmp_path)
    box.settings = replace(box.settings, models=tuple(map(aliased, box.settings.models)))
    try:
        box.start()
        with openai.OpenAI(base_url=f"http://127.0.0.1:{box.port}/v1", api_key="none", max_retries=0) as client:
            answer = client.chat.completions.create(model="a:fast", messages=ASKED, temperature=0.9)
    finally:
        box.close()
    asked = json.loads(answer.choices[0].message.content or "")["asked"]
    assert (asked["model"], asked["temperature"]) == ("a:fast", 0.9)
    assert asked["chat_template_kwargs"] == {"enable_thinking": False}
