"""A timing as recorded by a bench run."""

from __future__ import annotations

from llamarig.checks.bench_comparison import speed
from llamarig.records.bench_ledger import BenchEntry, Conditions, TimedGpu
from llamarig.records.timing_changes import speed_flags

RELEASE = "0c1e57098bba43ac29e6e3b677cdceebdd22334f-a6a0c45d"


ARGUMENTS = [
    f"/opt/llamarig/llama.cpp/{RELEASE}/bin/llama-server",
    *("--model", "/m/x-00001-of-00003.gguf", "--alias", "x", "--host", "0.0.0.0", "--port", "8080"),
    *("--api-key-file", "/run/credentials/llamarig-x.service/api-key", "--ctx-size", "8192", "--jinja"),
]


def entry(prompt: float = 1000, generation: float = 50, date: str = "2026-11-20", **changed: object) -> BenchEntry:
    conditions = Conditions(
        date=f"{date}T10:00:00Z",
        driver="580.159.04",
        cards=(TimedGpu(name="RTX 4090", uuid="GPU-1", power_limit_w=450),),
        ram_mts=3600,
        prompt_tokens=2048,
        generated_tokens=128,
    )
    fields: dict[str, object] = {
        "box": "a",
        "model": "x",
        "release": RELEASE,
        "flags": speed_flags(ARGUMENTS),
        "runs": 5,
        "prompt": speed([prompt]),
        "generation": speed([generation]),
        "conditions": conditions,
    }
    return BenchEntry.model_validate({**fields, **changed})
