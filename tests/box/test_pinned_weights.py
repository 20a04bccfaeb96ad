"""Weights in RAM pinned for the GPU: on simulated cards, whose pinned memory the kernel counts as it counts CUDA's.

The server, its dry runs, the switch and the audit are the real ones (remote/build/simulated_gpu.cpp lists what is not).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.rig import Rig
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.items.simulated_gpus import simulation_library
from llamarig.placement.box_capacity import BoxCapacity
from llamarig.placement.devices import simulation_environment
from llamarig.placement.pinned_weights import LoadModeChoice, load_modes, memory_of_measured
from llamarig.records.plan_file import MeasuredPlacement, read_plan_file

from tests.box.deployment import HOST, Deployment, wait_for
from tests.box.hub import Hub
from tests.box.rehearse import chat, is_healthy
from tests.box.sparse_models import write_sparse
from tests.placement.model_shapes import SHAPES
from tests.placement.profile_memory import PROFILES, RAM

pytestmark = pytest.mark.box

GROUND, MEASURE = "tests/box/deploy_plan_prerequisites.py", "tests/box/deploy_measurements.py"
UNIT = "llamarig-tiny"


# --- the profiles of group_data/ -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(PROFILES))
def profile(
    request: pytest.FixtureRequest,
    first_run: tuple[Deployment, Any],
    hub: Hub,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Deployment]]:
    """The converged box, declared as one of the owners' with his own placements, on simulations of his cards."""
    group: str = request.param
    directory = tmp_path_factory.mktemp(group)
    deployment = first_run[0].variant(directory)
    repo = f"acme/{group.replace('_', '-')}-GGUF"
    tiny = deployment.rig["models"][0]
    declared: dict[str, Any] = importlib.import_module(f"group_data.{group}").rig
    serves = {model["name"]: model["serve"] for model in Rig.model_validate(declared).to_json()["models"]}
    files = {}
    models = []
    for name, profile in PROFILES[group].models.items():
        files[name] = write_sparse(directory / "files", name, SHAPES[profile.shape])
        serve = {**serves[name], "api_key_file": None, "host": "127.0.0.1", "environment": {}}
        models.append({**tiny, "name": name, "repo": repo, "quant": None, "files": [f"{name}.gguf"], "serve": serve})
    hub.add_sparse_repo(repo, {file.name: file for made in files.values() for file in made})
    deployment.rig["models"] = models
    deployment.rig["simulated_gpus"] = [gpu.to_json() for gpu in PROFILES[group].gpus]
    ground = deployment.run(script=GROUND)
    assert ground.code == 0, str(ground)
    yield group, deployment
    deployment.shell("rm -rf /var/lib/llamarig/headers/*")


def test_each_profile_leaves_what_its_golden_unit_says(profile: tuple[str, Deployment]) -> None:
    """Its own dry runs decide whether a profile's weights are pinned on a box with 64 GB; then nothing is measured."""
    group, deployment = profile
    done = deployment.run(script=MEASURE)
    assert done.code == 0, str(done)
    measured = read_plan_file(deployment.rig["plan_file"]).measured[HOST]
    assert {name: seen(each) for name, each in measured.items()} == {
        name: (each.left_mib, each.weights_mib, each.rest_mib, each.pinnable_mib)
        for name, each in PROFILES[group].models.items()
    }
    rig = Rig.model_validate(importlib.import_module(f"group_data.{group}").rig)
    memory = {
        model.name: memory_of_measured(measured[model.name], model.serve.placement)
        for model in rig.models
        if model.name in measured
    }
    chosen = load_modes(rig, memory, BoxCapacity(ram=RAM))
    assert {name: chosen[name].mode for name in measured} == {
        name: each.mode for name, each in PROFILES[group].models.items()
    }
    again = deployment.run(script=MEASURE)
    assert (again.code, again.changed) == (0, []), str(again)


def seen(measured: MeasuredPlacement) -> tuple[tuple[int, ...], int, int, int]:
    ram = measured.ram
    rest = ram.buffers_mib + ram.cache_mib + ram.checkpoints_mib
    return measured.left_mib, ram.weights_mib, rest, measured.pinnable_mib


# --- a server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(first_run: tuple[Deployment, Any], deployment: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    """The tiny model with half of its experts in RAM, served on two simulated cards."""
    variant = deployment.variant(tmp_path / "variant")
    rig = Rig.model_validate(variant.rig)
    cards(variant, 900, 900)
    serve = variant.rig["models"][0]["serve"]
    serve["placement"] = {"kind": "layers", "gpu": [1, 1], "split": [3, 2]}
    serve["load_mode"] = "auto"
    seen_by_server = [SimulatedGpu(name=f"card {n}", total_mib=1000, free_mib=900) for n in (0, 1)]
    environment = simulation_environment(tuple(seen_by_server), simulation_library(rig.builds[0]))
    serve["environment"] = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}
    yield variant
    restored = deployment.run()
    assert restored.code == 0, str(restored)


def cards(deployment: Deployment, *free_mib: int) -> None:
    """Two cards with so much free when the placement is measured."""
    deployment.rig["simulated_gpus"] = [
        {"name": f"card {number}", "total_mib": 1000, "free_mib": mib} for number, mib in enumerate(free_mib)
    ]


def flags(deployment: Deployment) -> str:
    return deployment.shell(f"tr '\\0' ' ' </proc/$(systemctl show -P MainPID {UNIT})/cmdline")


def audited(deployment: Deployment) -> Any:
    return deployment.run("--data", "only=memory.pinned,llama.units", script="tasks/audit.py")


def test_experts_in_ram_are_pinned_and_a_difference_is_found(tiny: Deployment) -> None:
    first = tiny.run()
    assert first.code == 0, str(first)
    assert "--load-mode none" in flags(tiny)
    unit = tiny.shell(f"cat /etc/systemd/system/{UNIT}.service")
    assert "MemorySwapMax=0" in unit
    assert "are not pinned" not in first.output
    measured = json.loads(Path(tiny.rig["plan_file"]).read_text())["measured"][HOST]["tiny"]
    assert min(measured["left_mib"]) >= 512
    assert chat(tiny.address, "Pinned?")
    second = tiny.run()
    assert (second.code, second.changed) == (0, []), str(second)
    clean = audited(tiny)
    assert clean.code == 0, str(clean)

    # A driver that refuses pinned memory logs it at debug level only; the stand-in refuses it by CUDA's own variable.
    drop_in = f"/run/systemd/system/{UNIT}.service.d/refuse.conf"
    tiny.write(drop_in, "[Service]\nEnvironment=GGML_CUDA_NO_PINNED=1\n")
    try:
        tiny.shell(f"systemctl daemon-reload && systemctl restart {UNIT}")
        wait_for(lambda: is_healthy(tiny.address), "/health after a restart")
        assert chat(tiny.address, "Still well?")
        found = audited(tiny)
        assert found.code == 1, str(found)
        assert "memory.pinned" in found.output
        assert "so its weights are not pinned" in found.output
    finally:
        tiny.shell(f"rm {drop_in}; systemctl daemon-reload; systemctl restart {UNIT}")


def test_a_first_start_reports_that_weights_are_not_pinned(tiny: Deployment) -> None:
    drop_in = f"/run/systemd/system/{UNIT}.service.d/refuse.conf"
    tiny.write(drop_in, "[Service]\nEnvironment=GGML_CUDA_NO_PINNED=1\n")
    try:
        outcome = tiny.run()
        assert outcome.code == 0, str(outcome)
        assert "its weights in RAM are not pinned" in " ".join(outcome.output.split())
    finally:
        tiny.shell(f"rm {drop_in}; systemctl daemon-reload")


@pytest.mark.parametrize(
    ("free", "host", "words"),
    [
        ((900, 500), {}, "MiB free on the GPUs, and pinned weights need 512 on each"),
        ((900, 900), {"memory_reserve_mib": 10_000_000}, "host.memory_reserve_mib = 10000000"),
    ],
)
def test_where_memory_is_short_the_file_stays_mapped_and_the_deploy_says_why(
    tiny: Deployment, free: tuple[int, int], host: dict[str, Any], words: str
) -> None:
    cards(tiny, *free)
    tiny.rig["host"] = {**tiny.rig["host"], **host}
    outcome = tiny.run()
    assert outcome.code == 0, str(outcome)
    assert "--load-mode" not in flags(tiny)
    output = " ".join(outcome.output.split())
    assert "weights-not-pinned: weights in RAM are not pinned: " in output
    assert words in output
    assert "prompts are read several times more slowly" in output
    second = tiny.run()
    assert (second.code, second.changed) == (0, []), str(second)


def test_only_a_stale_measurement_is_made_again(tiny: Deployment) -> None:
    assert tiny.run().code == 0
    tiny.rig["models"][0]["serve"]["ubatch"] = 256
    changed = tiny.run()
    assert changed.changed == ["Memory of declared placements", "Models served"], str(changed)
    assert chosen_again(tiny) == LoadModeChoice("none")


def chosen_again(deployment: Deployment) -> LoadModeChoice:
    rig = Rig.model_validate(deployment.rig)
    measured = read_plan_file(rig.plan_file).measured[HOST]["tiny"]
    memory = {"tiny": memory_of_measured(measured, rig.models[0].serve.placement)}
    return load_modes(rig, memory, BoxCapacity(ram=23 << 30))["tiny"]
