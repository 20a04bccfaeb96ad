"""Measure experts in RAM, mapped and pinned, on a real GPU: prompt speed, shared memory, memory of the card.

    python3 -m tests.gpu.pinned_weights CUDA_RELEASE WORK_DIRECTORY [LAYERS]

Serves a Qwen3-Coder-Next of that many layers (16; random weights at Q6_K, 1.26 GiB a layer) with all experts in RAM,
as an ordinary user who may lock 64 KiB: each load mode twice, in turn. Pinned weights are detected as a switch detects
them (tasks/llamarig/remote/serve/model_units.py). WORK_DIRECTORY should be in RAM (tmpfs).
"""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamarig.remote.serve.model_units import pageable_warning, shared_mib

from tests.box.sparse_models import write_sparse
from tests.gpu.random_weights import fill
from tests.placement.model_shapes import SHAPES

PORT = 18099
NOBODY = 65534
PROMPTS = (512, 4000)
ROUNDS = 3
FLAGS = ("--ctx-size", "16384", "--batch-size", "2048", "--ubatch-size", "2048", "--parallel", "1", "--cpu-moe")
PLACED = ("--n-gpu-layers", "99", "--fit", "off", "--flash-attn", "on", "--threads", "8", "--cache-ram", "0")
CASES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "mapped (auto)": ((), {}),
    "pinned (none)": (("--load-mode", "none"), {}),
    "none, pinning refused": (("--load-mode", "none"), {"GGML_CUDA_NO_PINNED": "1"}),
}


def card_mib() -> int:
    """Used memory of the first card in MiB."""
    output = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], capture_output=True, text=True
    ).stdout
    return int(output.splitlines()[0])


def as_nobody() -> None:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 << 10, 64 << 10))
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@contextmanager
def served(release: Path, model: Path, case: str) -> Iterator[tuple[int, float]]:
    """Run a server of the case; yield its pid and the seconds that it took to load."""
    flags, environment = CASES[case]
    argv = [str(release / "bin/llama-server"), "-m", str(model), "--port", str(PORT), *FLAGS, *PLACED, *flags]
    began = time.monotonic()
    with subprocess.Popen(
        argv,
        env={**os.environ, "HOME": "/tmp", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=as_nobody,
    ) as server:
        try:
            while True:
                if server.poll() is not None:
                    raise SystemExit(f"{case}: llama-server ended with {server.returncode}")
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=2):
                        break
                except OSError:
                    time.sleep(0.2)
            yield server.pid, time.monotonic() - began
        finally:
            server.terminate()
            server.wait()


def completion(tokens: int) -> dict[str, Any]:
    """Request a completion of random token ids, which no cache holds; return its timings."""
    prompt = [random.randrange(1000, 100000) for _ in range(tokens)]
    body = json.dumps({"prompt": prompt, "n_predict": 32, "cache_prompt": False, "ignore_eos": True}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/completion", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        timings: dict[str, Any] = json.load(answer)["timings"]
        return timings


def dry_run(release: Path, model: Path) -> tuple[int, int]:
    """Return llama-fit-params' prediction in MiB: all memory of the card, and the weights in RAM."""
    argv = [str(release / "bin/llama-fit-params"), "-m", str(model), *FLAGS, *PLACED[:6], "--fit-print", "on"]
    output = subprocess.run(argv, capture_output=True, text=True).stdout
    rows = {line.split()[0]: [int(word) for word in line.split()[1:4]] for line in output.splitlines() if " " in line}
    return sum(rows["CUDA0"]), rows["Host"][0]


def main() -> None:
    release, work, *layers = sys.argv[1:]
    shape = replace(SHAPES["qwen3-coder-next-q6"], layers=int(layers[0]) if layers else 16)
    (model,) = write_sparse(Path(work), "pinned", shape, tokens=True)
    began = time.monotonic()
    fill(model)
    print(f"{model.stat().st_size / 2**30:.1f} GiB of random weights in {time.monotonic() - began:.0f} s", flush=True)
    embedding = shape.size("token_embd.weight", (shape.embedding, shape.vocabulary)) / 2**20
    predicted, weights = dry_run(Path(release), model)
    pinned = round(weights - embedding)
    print(f"dry run: {predicted} MiB on the card, {weights} MiB of weights in RAM, {pinned} without the embedding")
    speeds: dict[tuple[str, int], list[float]] = {}
    generation: dict[str, list[float]] = {}
    for turn in range(2):
        for case in CASES:
            before = card_mib()
            with served(Path(release), model, case) as (pid, loaded_s):
                loaded = card_mib() - before
                shared = shared_mib(str(pid))
                for tokens in PROMPTS:
                    completion(tokens)
                    timings = [completion(tokens) for _ in range(ROUNDS)]
                    speeds.setdefault((case, tokens), []).extend(each["prompt_per_second"] for each in timings)
                    generation.setdefault(case, []).extend(each["predicted_per_second"] for each in timings)
                after = card_mib() - before
                print(
                    f"{turn + 1} {case}: loaded in {loaded_s:.1f} s, RssShmem {shared} MiB, the card {loaded} MiB once "
                    f"loaded and {after} after prompts; reported: {pageable_warning(str(pid), pinned) or 'pinned'}",
                    flush=True,
                )
            time.sleep(2)
    print(
        "| prompt tokens/s, median (least to most) of",
        2 * ROUNDS,
        "| " + " | ".join(map(str, PROMPTS)),
        "| generation |",
    )
    for case in CASES:
        cells = [_spread(speeds[case, tokens]) for tokens in PROMPTS]
        print(f"| {case} | {' | '.join(cells)} | {_spread(generation[case])} |")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()
