"""Has a running model server answer one request of known length, and prints its own timings as a line of JSON.

    python3 -m tasks.files.bench_request UNIT PROMPT_TOKENS GENERATED_TOKENS

PROMPT_TOKENS 0: 2,048, or as many as the server's context allows. Nothing is changed on the box, no server is started
or stopped. A server at work for somebody else is left alone, and the task numbers of its slots tell whether somebody
else asked it meanwhile. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tasks.files.probe_servers import SilentError, key_of, slots
from tasks.files.server_client import Server

USUAL_PROMPT = 2048
WITHIN_S = 3600
# Words for a prompt that is no repetition: mixture-of-experts models send every token to experts of its own.
_WORDS = """
the a of and to in is was that for it with as his on be at by had not are but from or have an they which one you
were her all she there would their we him been has when who will more no if out so said what up its about into than
them can only other new some could time these two may then do first any my now such like our over man me even most
made after also did many before must through years where much way well down should because each just state people
those how too little world very year still see own work men day get here old life both between never house under
last while might us great again come since against go came right used take three function return class import value
index list number string error file path read write open close server memory layer token
"""


class CannotTimeError(Exception):
    """No timing can be had now; the message says why."""


def text(words: int) -> str:
    """Always the same words in the same random-looking order (a linear congruential generator)."""
    state, chosen, known = 1, [], _WORDS.split()
    for _ in range(words):
        state = (state * 1103515245 + 12345) % 2**31
        chosen.append(known[(state >> 16) % len(known)])
    return " ".join(chosen)


def prompt_of(server: Server, tokens: int) -> list[int]:
    """A prompt of exactly so many tokens."""
    found: list[int] = server.post("/tokenize", {"content": text(tokens)}, timeout=60)["tokens"]
    return (found * (1 + tokens // max(1, len(found))))[:tokens]


def timed(server: Server, prompt_tokens: int, generated_tokens: int) -> dict[str, Any]:
    """One request, with the server's own timings of prompt and generation.

    :raises CannotTimeError: when the server is busy, or its context too small
    """
    properties = server.get("/props")
    context = int(properties.get("default_generation_settings", {}).get("n_ctx", 0))
    wanted = prompt_tokens or min(USUAL_PROMPT, (context - generated_tokens) // 2)
    if wanted < 1 or wanted + generated_tokens > context:
        raise CannotTimeError(
            f"a slot holds {context} tokens, fewer than {wanted} of prompt and {generated_tokens} generated: "
            "ask for less with --data depth="
        )
    before = slots(server)
    if any(slot[0] for slot in before or []):
        raise CannotTimeError("is busy with somebody's request: time it when it is idle")
    request = {
        "prompt": prompt_of(server, wanted),
        "n_predict": generated_tokens,
        # Both are computed in full, every time, and the same tokens each time.
        "cache_prompt": False,
        "ignore_eos": True,
        "seed": 1,
    }
    answer = server.post("/completion", request, timeout=WITHIN_S)
    after = slots(server)
    timings = answer.get("timings", {})
    if timings.get("prompt_n") != wanted or timings.get("predicted_n") != generated_tokens:
        raise CannotTimeError(
            f"computed {timings.get('prompt_n')} + {timings.get('predicted_n')} tokens where {wanted} + "
            f"{generated_tokens} were asked for"
        )
    used = sum(map(lambda was, now: was[1] != now[1], before or [], after or []))
    return {
        "prompt_tokens": wanted,
        "generated_tokens": generated_tokens,
        "prompt_per_second": timings["prompt_per_second"],
        "generation_per_second": timings["predicted_per_second"],
        # Slots that took a task since: ours, and nobody else's.
        "alone": None if before is None or after is None else used <= 1,
    }


def measure(unit: str, prompt_tokens: int, generated_tokens: int) -> dict[str, Any]:
    """What is printed: the timings, or ``problem``."""
    shown = ["systemctl", "show", unit, "-p", "MainPID", "--value"]
    pid = subprocess.run(shown, capture_output=True, text=True).stdout.strip()
    if pid in ("", "0"):
        return {"problem": "does not run"}
    try:
        server = Server.of_process(pid, key_of(unit))
        if not server.is_healthy():
            return {"problem": "is not ready: it may still be loading"}
        return timed(server, prompt_tokens, generated_tokens)
    except CannotTimeError as error:
        return {"problem": str(error)}
    except SilentError:
        return {"problem": "does not answer /slots: it hangs, or computes a very long batch"}
    except (OSError, KeyError, ValueError) as error:
        return {"problem": f"did not complete the request ({error})"}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
