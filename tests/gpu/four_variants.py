"""Inventory of the local machine (pyinfra's @local): one large model with experts in RAM, placed in four ways.

LLAMARIG_GPU_SOURCE, LLAMARIG_GPU_SOURCE_SHA256, LLAMARIG_GPU_TOOLKIT: as in tests/gpu/inventory.py.
LLAMARIG_GPU_STATE: directory of model lock, plan file and ledger.
LLAMARIG_GPU_MODELS: names of the variants to declare; where it is empty, only the release is built.
LLAMARIG_GPU_BOX: whose profile ``declared`` is: rtx4090_rtx5070ti (default), rtx4070 or rtx_16gb; for the latter two,
LLAMARIG_GPU_CARD names the one card that serves.
LLAMARIG_GPU_THREADS: 16. With all processors of a rented machine, generation read 11 to 62 tokens/s for the same flags.
LLAMARIG_GPU_WORKLOAD: ``agent``, or the path of a recorded conversation. LLAMARIG_GPU_BACKEND=cpu: without a GPU.
"""

import os
from dataclasses import dataclass
from typing import Any

from llamarig import declare as d
from llamarig.declare.placement import Placement

_REPOSITORY = "llamarig/Random-Qwen3-Next-GGUF"
_NAMES = ("auto", "declared", "fit", "tuned")


@dataclass(frozen=True)
class _Profile:
    """The profile of a group before load modes and `auto()` (commit 9dd93a7): its placement and flags."""

    context: int
    placement: Placement
    ubatch: int
    load_mode: str = "mmap"


_PROFILES = {
    "rtx4090_rtx5070ti": _Profile(262144, d.layers(gpu=(13, 6), split=(32, 17)), 2048),
    "rtx4070": _Profile(131072, d.fit(target_mib=(128,), minimum_context=131072), 512, "mlock"),
    # Of another model, so its number of layers means little: 8 of 48 whole, as auto() found room for on such a card.
    "rtx_16gb": _Profile(131072, d.cpu_moe(layers=40), 2048),
}

_box = os.environ.get("LLAMARIG_GPU_BOX", "rtx4090_rtx5070ti")
_profile = _PROFILES[_box]
_state = os.environ["LLAMARIG_GPU_STATE"]
_cpu = os.environ.get("LLAMARIG_GPU_BACKEND") == "cpu"
_named = os.environ.get("LLAMARIG_GPU_MODELS", " ".join(_NAMES)).split()
_work = os.environ.get("LLAMARIG_GPU_WORKLOAD", "agent")
_workload = d.workload(recording=_work) if _work.endswith(".jsonl") else d.workload(preset="agent")
_card = os.environ.get("LLAMARIG_GPU_CARD")


def _placement(name: str) -> Placement:
    if _cpu:
        return d.cpu_only()
    if name == "declared":
        return _profile.placement
    return d.fit() if name == "fit" else d.auto()


def _serve(name: str) -> dict[str, Any]:
    declared = name == "declared"
    return {
        "port": 8080,
        "context": int(os.environ.get("LLAMARIG_GPU_CONTEXT", _profile.context)),
        "batch": 2048,
        "ubatch": _profile.ubatch,
        "cache_type_k": "q8_0",
        "cache_type_v": "q8_0",
        "threads": int(os.environ.get("LLAMARIG_GPU_THREADS", "16")),
        "placement": _placement(name),
        # llama.cpp maps files where nothing is declared, as all profiles did then.
        "load_mode": _profile.load_mode if declared else "mmap" if name == "fit" else "auto",
        "gpus": (_card,) if _card and not _cpu else (),
    }


_source = d.sdist_source(
    url=f"file://{os.environ['LLAMARIG_GPU_SOURCE']}",
    sha256=os.environ["LLAMARIG_GPU_SOURCE_SHA256"],
    commit="0c1e57098bba43ac29e6e3b677cdceebdd22334f",
)
_build = (
    d.build(name="cpu", backend="cpu", source=_source)
    if _cpu
    else d.build(
        name="cuda",
        source=_source,
        architectures=tuple(os.environ.get("LLAMARIG_GPU_ARCHITECTURES", "").split()),
        cuda_toolkit=os.environ.get("LLAMARIG_GPU_TOOLKIT", "/usr/local/cuda"),
    )
)

_rig = d.rig(
    builds=[_build],
    models=[
        d.model(
            name=name,
            repo=_REPOSITORY,
            quant="Q6_K",
            build=_build.name,
            serve=d.serve(**_serve(name)),
            workload=_workload if name == "tuned" else None,
        )
        for name in _named
    ],
    default=_named[0] if _named else None,
    host=d.host_policy(swappiness=None, disk_reserve_gib=1),
    hub=d.hub(endpoint="http://127.0.0.1:18080"),
    model_lock=f"{_state}/models.lock.json",
    plan_file=f"{_state}/plans.json",
    bench_ledger=f"{_state}/bench.jsonl",
)

gpu = [("@local", {"rig": _rig})]
