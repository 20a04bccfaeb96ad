"""Every hardware group loads through pyinfra's loader, as plain data, with the values that its owner tuned."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.model import Model
from llamarig.declare.placement import CpuMoe, Fit, Layers, Placement
from llamarig.declare.rig import Rig
from llamarig.declare.serve.sampling import Sampling

from group_data.all import llama_cpp_commit

REPOSITORY = Path(__file__).resolve().parents[2]

# In a separate process: importing pyinfra's command line replaces sockets and threads with gevent's.
_LOAD = """
import json, sys
from pyinfra_cli.inventory import make_inventory
from pyinfra.api import State
from pyinfra.context import ctx_state
with ctx_state.use(State()):
    boxes = make_inventory("inventory/home.py", cwd=".")
json.dump({host.name: [host.groups, host.data.dict()] for host in boxes}, sys.stdout)
"""


@cache
def _boxes() -> dict[str, tuple[list[str], dict[str, Any]]]:
    run = subprocess.run([sys.executable, "-c", _LOAD], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return {name: (groups, data) for name, (groups, data) in json.loads(run.stdout).items()}


def rig_of(group: str) -> Rig:
    (data,) = (data for groups, data in _boxes().values() if group in groups)
    return Rig.model_validate(data["rig"])


@dataclass(frozen=True)
class Profile:
    """One configuration that an owner tuned and measured."""

    group: str
    name: str
    repo: str
    files: str
    """The quant, or the file where its name has none."""
    port: int
    context: int
    batch: int
    ubatch: int
    kv: str
    """Type of both K and V."""
    placement: Placement
    sampling: Sampling


CODER = "unsloth/Qwen3-Coder-Next-GGUF"
CODER_SAMPLING = Sampling(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0)
QWEN35 = "unsloth/Qwen3.5-35B-A3B-GGUF"
A, B, C, D = "rtx4090_rtx5070ti", "rtx4070", "rtx_16gb", "rx7900xt"

PROFILES = (
    Profile(A, "qwen3-coder", CODER, "UD-Q6_K_XL", 8080, 262144, 2048, 2048, "q8_0",
            Layers(gpu=(13, 6), split=(32, 17)), CODER_SAMPLING),
    Profile(A, "qwen3-coder-q5", CODER, "UD-Q5_K_XL", 8080, 262144, 2048, 2048, "q8_0",
            Layers(gpu=(15, 7), split=(32, 17)), CODER_SAMPLING),
    Profile(A, "qwen3-coder-q5-fit", CODER, "UD-Q5_K_XL", 8080, 262144, 2048, 512, "q8_0",
            Fit(target_mib=(512, 1024)), CODER_SAMPLING),
    Profile(A, "gpt-oss-120b", "unsloth/gpt-oss-120b-GGUF", "gpt-oss-120b-F16.gguf", 8080, 65536, 4096, 4096, "q8_0",
            Layers(gpu=(12, 4), split=(25, 12)), Sampling()),
    Profile(B, "qwen3-coder-mxfp4", CODER, "MXFP4_MOE", 8001, 131072, 2048, 512, "f16",
            Fit(target_mib=(512,), minimum_context=131072),
            Sampling(temperature=1.0, top_p=0.95, min_p=0.01, top_k=40, seed=3407)),
    Profile(C, "qwen35-a3b", QWEN35, "Q4_K_M", 8080, 65536, 2048, 512, "q8_0",
            CpuMoe(layers=24), Sampling(temperature=0.6)),
    Profile(C, "qwen35-a3b-q8", QWEN35, "Q8_0", 8080, 65536, 2048, 512, "q8_0",
            Fit(), Sampling(temperature=0.6)),
    Profile(D, "qwen3-coder-ud-q4", CODER, "UD-Q4_K_XL", 8080, 262144, 16384, 1024, "q4_1",
            Layers(gpu=(12,), split=(49,)), Sampling(temperature=0.7, top_k=20, top_p=0.8, min_p=0.0)),
)  # fmt: skip


@pytest.mark.parametrize("wanted", PROFILES, ids=lambda profile: f"{profile.group}-{profile.name}")
def test_profile_is_declared_with_its_tuned_values(wanted: Profile) -> None:
    (model,) = (model for model in rig_of(wanted.group).models if model.name == wanted.name)
    serve = model.serve
    declared = Profile(
        wanted.group,
        model.name,
        model.repo,
        _files(model),
        serve.port,
        serve.context,
        serve.batch,
        serve.ubatch,
        serve.cache_type_k,
        serve.placement,
        serve.sampling,
    )
    assert declared == wanted
    assert serve.cache_type_v == wanted.kv
    assert serve.flash_attention == "on"
    assert serve.parallel == 1


def _files(model: Model) -> str:
    return model.quant or " ".join(model.files)


def test_every_declared_model_has_its_profile() -> None:
    declared = {(group, model.name) for group in (A, B, C, D) for model in rig_of(group).models}
    assert declared == {(profile.group, profile.name) for profile in PROFILES}


def test_settings_particular_to_a_box() -> None:
    assert rig_of(A).default_model.name == "qwen3-coder"
    assert all(model.serve.environment == {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"} for model in rig_of(A).models)

    box = rig_of(B)
    serve = box.models[0].serve
    assert (serve.host, serve.alias) == ("0.0.0.0", "unsloth/Qwen3-Coder-Next")
    assert serve.api_key_file is not None
    assert (serve.threads, serve.threads_batch, serve.cpu_affinity, serve.priority) == (10, 12, "0-11", 2)
    assert (serve.load_mode, serve.warmup, serve.environment) == ("mlock", False, {"GGML_CUDA_GRAPH_OPT": "1"})
    assert (box.host.swappiness, box.host.memory_mts) == (0, 6000)

    assert rig_of(C).default_model.name == "qwen35-a3b"
    assert all(model.mmproj == "mmproj-BF16.gguf" for model in rig_of(C).models)
    assert rig_of(D).builds[0].backend == "vulkan"


@pytest.mark.parametrize("group", [A, B, C, D])
def test_group_stays_plain_data(group: str) -> None:
    (data,) = (data for groups, data in _boxes().values() if group in groups)
    assert data["rig"] == rig_of(group).to_json()
    assert {key for key in data if not key.startswith("ssh_")} <= {"rig", "llama_cpp_commit", "_sudo"}


@pytest.mark.parametrize("group", [A, B, C, D])
def test_one_line_upgrades_every_box(group: str) -> None:
    assert {build.source.commit for build in rig_of(group).builds} == {llama_cpp_commit}


def test_only_loopback_is_open_without_a_key() -> None:
    for group in (A, B, C, D):
        for model in rig_of(group).models:
            assert model.serve.host == "127.0.0.1" or model.serve.api_key_file is not None


def test_a_fresh_clone_reaches_no_real_machine() -> None:
    for name, (_, data) in _boxes().items():
        address = data.get("ssh_hostname", name)
        assert re.fullmatch(r"[a-z0-9-]+\.invalid", address), address
