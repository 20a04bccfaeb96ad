"""Switch to each variant of tests/gpu/four_variants.py in turn and time it through its server's API. Run by hand.

    python3 -m tests.gpu.time_variants RESULTS.jsonl STAGES NAME [NAME ...]

STAGES, with commas: short (three prompts of 512 and of 2,000 tokens, 128 generated after the latter), long (16,000
tokens, then 48,000 and 128 generated), deep (100,000 tokens), agent (the agent workload of tasks/tune.py). Prompts are
random token ids, which no cache holds. A line of JSON is written for each result at once. Environment as of
tests/gpu/four_variants.py; pyinfra has to be `python3 -m pyinfra`.
LLAMARIG_GPU_SCALE=0.05 makes every prompt shorter, to try the program.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamarig.remote.measure.replay import replay
from llamarig.remote.measure.workload import AGENT, Turn
from llamarig.remote.shared.server_client import NoAnswerError, Server

SCALE = float(os.environ.get("LLAMARIG_GPU_SCALE", "1"))
INVENTORY = "tests/gpu/four_variants.py"
Emit = Callable[..., None]


def scaled(tokens: int) -> int:
    return max(2, round(tokens * SCALE))


def ids(tokens: int) -> list[int]:
    return [random.randrange(1000, 100000) for _ in range(scaled(tokens))]


def completion(server: Server, prompt: list[int], generate: int) -> dict[str, Any]:
    body = {"prompt": prompt, "n_predict": generate, "cache_prompt": True, "ignore_eos": True}
    timings: dict[str, Any] = server.post("/completion", body, timeout=900)["timings"]
    return timings


def short(server: Server, emit: Emit) -> None:
    completion(server, ids(64), 8)
    for _ in range(3):
        emit("prompt_512", completion(server, ids(512), 2)["prompt_per_second"])
    for _ in range(3):
        timings = completion(server, ids(2000), scaled(128))
        emit("prompt_2k", timings["prompt_per_second"])
        emit("generation_2k", timings["predicted_per_second"])


def long(server: Server, emit: Emit) -> None:
    prompt = ids(16000)
    emit("prompt_16k", completion(server, prompt, 2)["prompt_per_second"])
    prompt += ids(32000)
    timings = completion(server, prompt, scaled(128))
    emit("prompt_16k_to_48k", timings["prompt_per_second"], tokens=timings["prompt_n"])
    emit("generation_48k", timings["predicted_per_second"])


def deep(server: Server, emit: Emit) -> None:
    timings = completion(server, ids(100000), scaled(64))
    emit("prompt_100k", timings["prompt_per_second"], tokens=timings["prompt_n"])
    emit("generation_100k", timings["predicted_per_second"])


def agent(server: Server, emit: Emit) -> None:
    turns = tuple(Turn(scaled(turn.adds), scaled(turn.generates)) for turn in AGENT.turns)
    found = replay(server, replace(AGENT, turns=turns), 1)
    emit("agent_seconds", found.seconds, first_token_s=found.first_token_s, turns=found.turn_first_token_s)
    emit("agent_prompt", found.prompt_per_second)
    emit("agent_generation", found.generation_per_second, depth=found.depth)


STAGES: dict[str, Callable[[Server, Emit], None]] = {"short": short, "long": long, "deep": deep, "agent": agent}


def card_mib() -> list[int]:
    """Free MiB of each card."""
    try:
        query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
        return [int(line) for line in subprocess.run(query, capture_output=True, text=True).stdout.split()]
    except OSError:
        return []


def main() -> None:
    path, stages, *names = sys.argv[1:]
    with Path(path).open("a") as results:

        def emit_for(name: str) -> Emit:
            def emit(what: str, value: float, **more: Any) -> None:
                line = {"variant": name, "what": what, "value": round(value, 2), **more, "free_mib": card_mib()}
                print(json.dumps({**line, "at": time.strftime("%H:%M:%S")}), file=results, flush=True)
                print(f"{name:>9} {what:<18} {value:9.1f}  free {line['free_mib']}", flush=True)

            return emit

        for name in names:
            emit, began = emit_for(name), time.monotonic()
            switch = [sys.executable, "-m", "pyinfra", "-y", INVENTORY, "tasks/switch.py", "--data", f"model={name}"]
            switched = subprocess.run(switch, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if switched.returncode:
                print(f"{name}: no switch\n{(switched.stdout + switched.stderr)[-2500:]}", flush=True)
                continue
            emit("switch_seconds", time.monotonic() - began)
            server = Server("http://127.0.0.1:8080", None)
            for stage in stages.split(","):
                try:
                    STAGES[stage](server, emit)
                except (NoAnswerError, KeyError) as error:
                    print(f"{name}: {stage} failed: {error}", flush=True)


if __name__ == "__main__":
    main()
