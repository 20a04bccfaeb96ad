"""The replay of a workload, against a stand-in for llama-server with known times; and the parser of recordings."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from llamarig.remote.measure.recording import parse_recording
from llamarig.remote.measure.replay import TooSlowError, replay
from llamarig.remote.measure.workload import AGENT, BATCH, PRESETS, Turn, Workload, fitted
from llamarig.remote.shared.server_client import NoAnswerError, Server

from tests.remote.serve import server_stand_in

RECORDED: list[dict[str, Any]] = [
    {"tools": [{"type": "function", "function": {"name": "read"}}]},
    {"role": "system", "content": "You are a robot."},
    {"role": "user", "content": "What does main.c do?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "read", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "int main(void) { return 0; }"},
    {"role": "assistant", "content": "Nothing at all."},
]


class Asked:
    """The server, and the requests that it was asked."""

    def __init__(self, milliseconds: int) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.http = server_stand_in.server(0, f"ms-{milliseconds}")
        handler, requests = self.http.RequestHandlerClass, self.requests

        class Recording(handler):  # type: ignore[misc, valid-type]  # the class that the stand-in has made
            def work(self, request: dict[str, Any]) -> None:
                requests.append((self.path, request))
                super().work(request)

        self.http.RequestHandlerClass = Recording
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.server = Server(f"http://127.0.0.1:{self.http.server_address[1]}", None)


@pytest.fixture
def asked() -> Iterator[Asked]:
    found = Asked(40)
    yield found
    found.http.shutdown()
    found.http.server_close()


def test_a_conversation_grows_by_what_is_added_and_generated(asked: Asked) -> None:
    workload = Workload("agent", (Turn(100, 8), Turn(30, 8), Turn(20, 4)))
    found = replay(asked.server, workload, 1)
    prompts = [request["prompt"] for _, request in asked.requests]
    assert [len(prompt) for prompt in prompts] == [100, 138, 166]
    assert prompts[1][:108] == [*prompts[0], *[7] * 8]  # what was generated stays in the conversation
    assert all(request["cache_prompt"] and request["ignore_eos"] for _, request in asked.requests)
    assert found.seconds >= 0.12
    assert len(found.turn_first_token_s) == 2
    assert found.first_token_s >= 0.02
    assert found.prompt_per_second == pytest.approx(1000 * (100 + 138 + 166) / 60, rel=0.01)
    assert found.depth == 166


def test_conversations_side_by_side_take_less_time(asked: Asked) -> None:
    workload = Workload("batch", (Turn(50, 4),), conversations=6, at_once=True)
    found = replay(asked.server, workload, 6)
    assert len(asked.requests) == 6
    assert len({tuple(request["prompt"][:10]) for _, request in asked.requests}) > 1
    assert found.turn_first_token_s == ()


def test_a_recording_is_replayed_turn_by_turn(asked: Asked, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDED)))
    replay(asked.server, Workload("recording", recording=str(path)), 1)
    assert [path for path, _ in asked.requests] == ["/v1/chat/completions"] * 2
    bodies = [body for _, body in asked.requests]
    assert [message["role"] for message in bodies[0]["messages"]] == ["system", "user"]
    assert [message["role"] for message in bodies[1]["messages"]] == ["system", "user", "assistant", "tool"]
    assert bodies[0]["tools"] == RECORDED[0]["tools"]
    assert bodies[1]["max_tokens"] == len("Nothing at all.") // 4


def test_a_replay_that_takes_too_long_is_given_up(asked: Asked) -> None:
    with pytest.raises(TooSlowError):
        replay(asked.server, Workload("agent", tuple(Turn(10, 2) for _ in range(50))), 1, limit_s=0.3)
    assert len(asked.requests) < 50


def test_an_answer_without_timings_is_no_timing() -> None:
    http = server_stand_in.server(0, "completion-timings")
    threading.Thread(target=http.serve_forever, daemon=True).start()
    server = Server(f"http://127.0.0.1:{http.server_address[1]}", None)
    with pytest.raises(NoAnswerError, match="without timings"):
        replay(server, Workload("agent", (Turn(10, 2),)), 1)
    http.shutdown()
    http.server_close()


# --- lengths ----------------------------------------------------------------------------------------------------------


def test_the_agent_has_one_long_prompt_and_ten_turns() -> None:
    first, *turns = AGENT.turns
    assert (first.adds, len(turns)) == (8192, 10)
    assert {turn.generates for turn in AGENT.turns} == {200}
    assert (min(turn.adds for turn in turns), max(turn.adds for turn in turns)) == (200, 2000)


@given(some.integers(512, 300_000), some.sampled_from(sorted(PRESETS)))
def test_a_workload_fits_into_the_context(context: int, name: str) -> None:
    found = fitted(PRESETS[name], context)
    assert found.context <= context
    assert found.turns
    if PRESETS[name].context + 64 <= context:
        assert found == PRESETS[name]


def test_a_context_in_which_nothing_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        fitted(BATCH, 300)


# --- recordings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"role": "user", "content": "secret words"}\nnonsense', "line 2 is not JSON"),
        ('{"role": "user", "content": "secret words"}\n[1]', "line 2 is not an object"),
        ('{"content": "secret words"}', "line 1 is no message"),
        ('{"role": "user", "content": "secret words"}', "no message of the assistant"),
        ('{"tools": "secret words"}', "line 1: tools are a list"),
        ("", "no message of the assistant"),
    ],
)
def test_a_wrong_recording_is_refused_without_its_words(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        parse_recording(text)
    assert "secret" not in str(error.value)


@given(some.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert parse_recording(text).exchanges
