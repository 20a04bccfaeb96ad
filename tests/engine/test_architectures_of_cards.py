"""CUDA architectures of a rig that declares none: those of the GPUs in the box."""

from __future__ import annotations

from llamarig.declare.build import Build
from llamarig.declare.rig import Rig
from llamarig.engine.rig_of_host import with_architectures_of
from llamarig.facts.gpus import Gpu


def gpu(capability: str) -> Gpu:
    return Gpu(0, "GPU-0", "a card", 24564, 23671, capability, "580.95.05", "00000000:01:00.0")


def cuda() -> Build:
    return Build(name="cuda", cuda_toolkit="13.0")


def test_architectures_of_the_gpus_in_the_box() -> None:
    serve = {"port": 8080, "context": 4096}
    model = {"name": "m", "repo": "a/b", "quant": "Q8_0", "build": "cuda", "serve": serve}
    rig = Rig.model_validate({"builds": [cuda().to_json()], "models": [model]})
    resolved = with_architectures_of([gpu("12.0"), gpu("8.9")], rig)
    assert resolved.builds[0].architectures == ("120a-real", "89-real")
    assert with_architectures_of([], rig) == rig
