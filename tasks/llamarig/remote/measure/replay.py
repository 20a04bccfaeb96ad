"""Replays a workload on a running llama-server through its own API, and reports the times.

Prompts are chosen by the server's own token count. A conversation keeps what was generated, as a client does, so that
the server's prompt cache works as it does in use. Nothing of a recording is printed or kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from llamarig.remote.measure.recording import parse_recording
from llamarig.remote.measure.workload import Workload
from llamarig.remote.serve.bench_request import text
from llamarig.remote.shared.record import Record
from llamarig.remote.shared.server_client import NoAnswerError, Server

_TOKENIZE_S = 120.0
LONGEST_S = 6 * 3600.0
"""Seconds for a replay that is not limited."""


class TooSlowError(Exception):
    """The replay took longer than its limit."""


@dataclass(frozen=True)
class Replayed(Record):
    """Times of one replay. Seconds; rates in tokens per second, as the server reports them.

    ``seconds``: from the first request to the last answer; ``first_token_s``: of the first turn, whose prompt is not
    cached; ``turn_first_token_s``: of each later turn; ``prompt_per_second``: of all tokens that were computed;
    ``generation_per_second``: of the last turn, with ``depth`` tokens before it.
    """

    seconds: float
    first_token_s: float
    turn_first_token_s: tuple[float, ...] = ()
    prompt_per_second: float = 0.0
    generation_per_second: float = 0.0
    depth: int = 0


@dataclass
class _Times:
    first_token_s: list[float] = field(default_factory=list)
    prompt_tokens: float = 0
    prompt_ms: float = 0
    generation_per_second: float = 0
    depth: int = 0

    def add(self, answer: dict[str, Any], seconds: float) -> None:
        """:param seconds: from the request to the whole answer"""
        timings = answer.get("timings")
        if not isinstance(timings, dict) or not _is_number(timings.get("predicted_ms")):
            raise NoAnswerError("an answer without timings", answered=True)
        self.first_token_s.append(max(0.0, seconds - timings["predicted_ms"] / 1000))
        self.prompt_tokens += _number(timings, "prompt_n")
        self.prompt_ms += _number(timings, "prompt_ms")
        self.generation_per_second = _number(timings, "predicted_per_second")
        self.depth = int(_number(timings, "cache_n") + _number(timings, "prompt_n"))


def replay(server: Server, workload: Workload, slots: int, limit_s: Optional[float] = None) -> Replayed:
    """Replay a workload.

    :param slots: of the server: how many conversations run side by side where the workload wants that
    :param limit_s: seconds after which it is given up
    :raises TooSlowError: when that time is over
    :raises NoAnswerError: where the server does not answer as a llama-server does
    :raises OSError: where the recording cannot be read
    :raises ValueError: where it cannot be parsed
    """
    prepared = _prepared(server, workload)
    began = time.monotonic()
    deadline = began + (LONGEST_S if limit_s is None else limit_s)
    times = _side_by_side(prepared, deadline, slots) if workload.at_once else [one(deadline) for one in prepared]
    seconds = time.monotonic() - began
    prompt_ms = sum(one.prompt_ms for one in times)
    return Replayed(
        seconds=round(seconds, 4),
        first_token_s=round(times[0].first_token_s[0], 4),
        turn_first_token_s=tuple(round(value, 4) for value in times[0].first_token_s[1:]),
        prompt_per_second=_rate(sum(one.prompt_tokens for one in times), prompt_ms),
        generation_per_second=float(f"{times[-1].generation_per_second:.5g}"),
        depth=times[-1].depth,
    )


def _side_by_side(prepared: Sequence[Callable[[float], _Times]], deadline: float, slots: int) -> list[_Times]:
    pool = ThreadPoolExecutor(slots)
    try:
        running = [pool.submit(one, deadline) for one in prepared]
        return [one.result() for one in running]
    finally:
        # Where the program is stopped, it does not wait for answers: the server is stopped next.
        pool.shutdown(wait=False, cancel_futures=True)


def _prepared(server: Server, workload: Workload) -> list[Callable[[float], _Times]]:
    """The conversations, with all that is not timed done: texts are read and their tokens counted."""
    if workload.recording is not None:
        return [_recorded(server, Path(workload.recording))]
    needed = sum(turn.adds for turn in workload.turns) * workload.conversations
    tokens = _tokens(server, text(needed))
    if not tokens:
        raise NoAnswerError("no tokens of a text", answered=True)
    tokens = (tokens * (1 + needed // len(tokens)))[:needed]
    each = needed // workload.conversations
    parts = [tokens[index * each : (index + 1) * each] for index in range(workload.conversations)]
    return [_conversation(server, workload, part) for part in parts]


def _conversation(server: Server, workload: Workload, tokens: Sequence[int]) -> Callable[[float], _Times]:
    def run(deadline: float) -> _Times:
        times, said, unused = _Times(), list[int](), list(tokens)
        for turn in workload.turns:
            said += unused[: turn.adds]
            del unused[: turn.adds]
            body = {
                "prompt": said,
                "n_predict": turn.generates,
                "ignore_eos": True,
                "seed": 1,
                "return_tokens": True,
                "cache_prompt": True,
            }
            answer = _post(server, "/completion", body, deadline, times)
            generated = answer.get("tokens")
            said += generated if isinstance(generated, list) else []
        return times

    return run


def _recorded(server: Server, path: Path) -> Callable[[float], _Times]:
    recording = parse_recording(path.read_text())
    counted = [(max(1, len(_tokens(server, exchange.answer))), exchange) for exchange in recording.exchanges]

    def run(deadline: float) -> _Times:
        times = _Times()
        for length, exchange in counted:
            body = {"messages": list(exchange.messages), "max_tokens": length, "ignore_eos": True, "seed": 1}
            if recording.tools:
                body["tools"] = list(recording.tools)
            _post(server, "/v1/chat/completions", body, deadline, times)
        return times

    return run


def _post(server: Server, path: str, body: dict[str, Any], deadline: float, times: _Times) -> dict[str, Any]:
    began = time.monotonic()
    if began >= deadline:
        raise TooSlowError
    try:
        answer = server.post(path, body, timeout=deadline - began)
    except NoAnswerError as error:
        if time.monotonic() >= deadline:
            raise TooSlowError from None
        raise error
    times.add(answer, time.monotonic() - began)
    return answer


def _tokens(server: Server, content: str) -> list[int]:
    found = server.post("/tokenize", {"content": content}, timeout=_TOKENIZE_S).get("tokens")
    return found if isinstance(found, list) else []


def _number(timings: dict[str, Any], name: str) -> float:
    value = timings.get(name, 0)
    return float(value) if _is_number(value) else 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _rate(tokens: float, milliseconds: float) -> float:
    return float(f"{1000 * tokens / milliseconds:.5g}") if milliseconds > 0 else 0.0
