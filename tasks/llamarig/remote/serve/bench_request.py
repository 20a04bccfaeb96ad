"""Times one request of known length on a running model server, and prints the server's own timings as a line of JSON.

    python3 -m llamarig.remote.serve.bench_request UNIT PROMPT_TOKENS GENERATED_TOKENS

PROMPT_TOKENS 0 means 2,048, or fewer where the server's context is smaller. Then a second turn of the same conversation
is timed, of which the server has most in its cache. Nothing on the box is changed; no server is started or stopped. A
busy server is not timed, and the task IDs of its slots show whether another request came during the measurement.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llamarig.remote.measure.conditions import gpu_rows, watched
from llamarig.remote.serve.model_units import key_of, run, state_of
from llamarig.remote.serve.probe_servers import SilentError, Slot, slots
from llamarig.remote.serve.proof_requests import longest_input, task_of
from llamarig.remote.shared.jobs import Timing
from llamarig.remote.shared.server_client import Server, arguments_of

DEFAULT_PROMPT_TOKENS = 2048
TIMEOUT_S = 3600
TURN_ADDS = 256
"""Tokens that the second turn adds: a question, or a small result of a tool."""
_TURN_GENERATES = 16
_TOKENS_BESIDE = 16
"""Room for the tokens that a server adds to an input, and for the query of a reranking."""
# A prompt without repetition, because a mixture-of-experts model routes each token to experts by its content.
_WORDS = """
the a of and to in is was that for it with as his on be at by had not are but from or have an they which one you
were her all she there would their we him been has when who will more no if out so said what up its about into than
them can only other new some could time these two may then do first any my now such like our over man me even most
made after also did many before must through years where much way well down should because each just state people
those how too little world very year still see own work men day get here old life both between never house under
last while might us great again come since against go came right used take three function return class import value
index list number string error file path read write open close server memory layer token
"""


class NotTimedError(Exception):
    """The server cannot be timed now; the message says why."""


def text(words: int) -> str:
    """Return pseudo-random words, the same ones each time (a linear congruential generator)."""
    state, chosen, vocabulary = 1, [], _WORDS.split()
    for _ in range(words):
        state = (state * 1103515245 + 12345) % 2**31
        chosen.append(vocabulary[(state >> 16) % len(vocabulary)])
    return " ".join(chosen)


def _prompt_of(server: Server, tokens: int) -> list[int]:
    found: list[int] = server.post("/tokenize", {"content": text(tokens)}, timeout=60)["tokens"]
    return (found * (1 + tokens // max(1, len(found))))[:tokens]


def _time_input(server: Server, arguments: Sequence[str], prompt_tokens: int) -> Timing:
    """Time a text that is embedded or ranked; llama-server reports no timings of its own for that."""
    most = longest_input(arguments, _context(server)) - _TOKENS_BESIDE
    wanted = prompt_tokens or min(DEFAULT_PROMPT_TOKENS, most)
    if not 1 <= wanted <= most:
        raise NotTimedError(
            f"takes {most} tokens at once (its context, or serve.ubatch), fewer than {wanted}: request fewer with "
            "--data depth="
        )
    before = _idle_slots(server)
    tokens = _prompt_of(server, wanted)
    request: dict[str, Any]
    path, request = "/v1/embeddings", {"input": tokens}
    if task_of(arguments) == "rerank":
        ranked = server.post("/detokenize", {"tokens": tokens}, timeout=60)["content"]
        path, request = "/v1/rerank", {"query": "a", "documents": [ranked]}
    began = time.monotonic()
    answer = server.post(path, request, timeout=TIMEOUT_S)
    seconds = time.monotonic() - began
    return Timing(
        prompt_tokens=wanted,
        prompt_per_second=answer["usage"]["prompt_tokens"] / seconds,
        alone=_was_alone(before, slots(server)),
    )


def _context(server: Server) -> int:
    return int(server.get("/props").get("default_generation_settings", {}).get("n_ctx", 0))


def _idle_slots(server: Server) -> tuple[Slot, ...] | None:
    found = slots(server)
    if any(slot.busy for slot in found or ()):
        raise NotTimedError("is busy with another request: time it when it is idle")
    return found


def _was_alone(before: tuple[Slot, ...] | None, after: tuple[Slot, ...] | None) -> bool | None:
    """Whether at most one slot has a new task: this request was the only one. None where slots are hidden."""
    used = sum(map(lambda old, new: old.task != new.task, before or (), after or ()))
    return None if before is None or after is None else used <= 1


def _time_request(server: Server, prompt_tokens: int, generated_tokens: int) -> Timing:
    context = _context(server)
    wanted = prompt_tokens or min(DEFAULT_PROMPT_TOKENS, (context - generated_tokens) // 2)
    if wanted < 1 or wanted + generated_tokens > context:
        raise NotTimedError(
            f"a slot holds {context} tokens, fewer than a prompt of {wanted} and {generated_tokens} generated: "
            "request fewer with --data depth="
        )
    before = _idle_slots(server)
    prompt = _prompt_of(server, wanted)
    request = {
        "prompt": prompt,
        "n_predict": generated_tokens,
        # So that each run computes the whole prompt and generates the same number of tokens.
        "cache_prompt": False,
        "ignore_eos": True,
        "seed": 1,
        "return_tokens": True,
    }
    answer = server.post("/completion", request, timeout=TIMEOUT_S)
    after = slots(server)
    timings = answer.get("timings", {})
    if timings.get("prompt_n") != wanted or timings.get("predicted_n") != generated_tokens:
        raise NotTimedError(
            f"computed {timings.get('prompt_n')} + {timings.get('predicted_n')} tokens where {wanted} + "
            f"{generated_tokens} were requested"
        )
    first = Timing(
        prompt_tokens=wanted,
        generated_tokens=generated_tokens,
        prompt_per_second=timings["prompt_per_second"],
        generation_per_second=timings["predicted_per_second"],
        alone=_was_alone(before, after),
    )
    said = [*prompt, *(answer.get("tokens") or ())]
    if first.alone is False or len(said) + TURN_ADDS + _TURN_GENERATES > context:
        return first
    return _with_second_turn(server, first, said)


def _with_second_turn(server: Server, first: Timing, said: list[int]) -> Timing:
    """Time the turn after the first one: what was said before comes out of the server's cache.

    :param said: tokens of the first turn, prompt and answer
    """
    added = _prompt_of(server, len(said) + TURN_ADDS)[len(said) :]  # words that the first turn has not had
    before = slots(server)
    request = {
        "prompt": [*said, *added],
        "n_predict": _TURN_GENERATES,
        "cache_prompt": True,
        "ignore_eos": True,
        "seed": 1,
    }
    timings = server.post("/completion", request, timeout=TIMEOUT_S).get("timings", {})
    return replace(
        first,
        alone=None if first.alone is None else _was_alone(before, slots(server)),
        turn_s=round(timings["prompt_ms"] / 1000, 5),
        turn_tokens=len(said) + len(added),
        turn_computed=timings["prompt_n"],
    )


def measure(unit: str, prompt_tokens: int, generated_tokens: int) -> Timing:
    """Return the timings, or ``problem`` with the reason why there are none."""
    pid = state_of(unit)["MainPID"]
    if pid in ("", "0"):
        return Timing(problem="does not run")
    try:
        arguments, server = arguments_of(pid), Server.of_process(pid, key_of(unit))
        if not server.is_healthy():
            return Timing(problem="is not ready: it may still be loading")
        group = run(["systemctl", "show", unit, "-p", "ControlGroup", "--value"]).strip()
        with watched(group, pid) as watch:
            if task_of(arguments) != "completion":
                timing = _time_input(server, arguments, prompt_tokens)
            else:
                timing = _time_request(server, prompt_tokens, generated_tokens)
            found = watch.conditions()
        # A short request ends before the first look at the clocks, which have not fallen yet.
        clocks = found.gpu_mhz or tuple(clock for clock, _ in gpu_rows())
        return replace(timing, gpu_mhz=clocks, throttled=found.throttled)
    except NotTimedError as error:
        return Timing(problem=str(error))
    except SilentError:
        return Timing(problem="does not answer /slots: it hangs, or is computing a very long batch")
    except (OSError, KeyError, ValueError) as error:
        return Timing(problem=f"did not complete the request ({error})")


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])).to_json()))
