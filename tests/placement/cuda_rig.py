"""A rig whose models have a declared placement on CUDA GPUs, with experts partly in RAM."""

from __future__ import annotations

from typing import Any

from llamarig.declare.rig import Rig

LAYERS = {"kind": "layers", "gpu": [13, 6], "split": [32, 17]}


def rig(*serves: dict[str, Any], backend: str = "cuda", **fields: Any) -> Rig:
    """A rig with models m0, m1, ..., one for each of these settings."""
    build: dict[str, Any] = {"name": "b", "backend": backend}
    if backend == "cuda":
        build |= {"architectures": ["89-real"], "cuda_toolkit": "13.0"}
    models = [
        {
            "name": f"m{number}",
            "repo": "o/r",
            "quant": "Q",
            "build": "b",
            "serve": {"port": 8080 + number, "context": 4096, "placement": LAYERS, **serve},
        }
        for number, serve in enumerate(serves)
    ]
    return Rig.model_validate({"builds": [build], "models": models, **fields})
