"""Weights in RAM that are pinned for the GPU, on simulated cards: the kernel counts their pinned memory like CUDA's.

Server, dry runs, switch and audit are real; remote/build/simulated_gpu.cpp lists what is simulated.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
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
from llamarig.render import layout

from tests.box.deployment import HOST, Deployment, wait_for
from tests.box.hub import Hub
from tests.box.memory_group import started_in_group
from tests.box.rehearse import chat, is_healthy
from tests.box.sparse_models import write_sparse
from tests.placement.model_shapes import SHAPES
from tests.placement.profile_memory import PROFILES, RAM

pytestmark = pytest.mark.box

PREREQUISITES, MEASURE = "tests/box/deploy_plan_prerequisites.py", "tests/box/deploy_measurements.py"
UNIT = "llamarig-tiny"
OTHER_PORT = 17


# --- the profiles of group_data/ -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(PROFILES))
def profile(
    request: pytest.FixtureRequest,
    converged: Deployment,
    hub: Hub,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Deployment]]:
    """The converged box with the models and placements of one group in group_data/, on simulations of its cards."""
    group: str = request.param
    directory = tmp_path_factory.mktemp(group)
    deployment = converged.variant(directory)
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
    hub.add_sparse_repo(repo, {file.name: file for shards in files.values() for file in shards})
    deployment.rig["models"] = models
    deployment.rig["simulated_gpus"] = [gpu.to_json() for gpu in PROFILES[group].gpus]
    prepared = deployment.run(script=PREREQUISITES)
    assert prepared.code == 0, str(prepared)
    yield group, deployment
    deployment.shell("rm -rf /var/lib/llamarig/headers/*")


def test_the_measured_memory_gives_each_profile_the_load_mode_of_its_golden_unit(
    profile: tuple[str, Deployment],
) -> None:
    """On a box with 64 GB. A second run measures nothing again."""
    group, deployment = profile
    done = deployment.run(script=MEASURE)
    assert done.code == 0, str(done)
    measured = read_plan_file(deployment.rig["plan_file"]).measured[HOST]
    assert {name: memory_values(each) for name, each in measured.items()} == {
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


def memory_values(measured: MeasuredPlacement) -> tuple[tuple[int, ...], int, int, int]:
    """MiB left on each GPU, of weights in RAM, of everything else in RAM, and of weights that can be pinned."""
    ram = measured.ram
    rest = ram.buffers_mib + ram.cache_mib + ram.checkpoints_mib
    return measured.left_mib, ram.weights_mib, rest, measured.pinnable_mib


# --- a server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(converged: Deployment, deployment: Deployment, tmp_path: Path) -> Iterator[Deployment]:
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
    serve["readable_paths"] = [layout.SIMULATED]
    yield variant
    restored = deployment.run()
    assert restored.code == 0, str(restored)


def cards(deployment: Deployment, *free_mib: int) -> None:
    """Declare two cards with this much free memory when the placement is measured."""
    deployment.rig["simulated_gpus"] = [
        {"name": f"card {number}", "total_mib": 1000, "free_mib": mib} for number, mib in enumerate(free_mib)
    ]


def flags(deployment: Deployment) -> str:
    return deployment.shell(f"tr '\\0' ' ' </proc/$(systemctl show -P MainPID {UNIT})/cmdline")


def audited(deployment: Deployment) -> Any:
    return deployment.run("--data", "only=memory.pinned,llama.units", script="tasks/audit.py")


def test_experts_in_ram_are_pinned_and_an_audit_finds_weights_that_are_not(tiny: Deployment) -> None:
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

    # llama.cpp logs refused pinned memory only at debug level. This variable makes the simulation refuse it.
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


def test_a_deploy_reports_weights_that_could_not_be_pinned(tiny: Deployment) -> None:
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
def test_without_enough_memory_the_file_stays_mapped_and_the_deploy_gives_the_reason(
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


def test_a_memory_limit_too_small_for_pinned_weights_is_named_and_the_named_one_is_enough(
    tiny: Deployment, tmp_path: Path
) -> None:
    """The kernel enforces the named limit here: on the server as its unit starts it, from its first allocation on."""
    serve = tiny.rig["models"][0]["serve"]
    serve["memory_max_mib"] = 64
    mapped = tiny.run()
    assert mapped.code == 0, str(mapped)
    assert "--load-mode" not in flags(tiny)
    output = " ".join(mapped.output.split())
    assert "weights in RAM are not pinned: memory_max_mib 64 is less than the" in output, output
    named = re.search(r"raise memory_max_mib to (\d+) or more", output)
    assert named is not None

    serve["memory_max_mib"] = limit = int(named[1])
    pinned = tiny.run()
    assert pinned.code == 0, str(pinned)
    assert "--load-mode none" in flags(tiny)
    assert f"MemoryMax={limit}M" in tiny.shell(f"cat /etc/systemd/system/{UNIT}.service")
    port, other = serve["port"], tiny.box.port + OTHER_PORT
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in serve["environment"].items())
    words = flags(tiny).replace(f"--port {port}", f"--port {other}").split()
    command = f"env {variables} {shlex.join(words)}"
    with started_in_group(tiny, command, "/run/pinned-log", limit, name="pinned") as (group, _):
        address = f"http://127.0.0.1:{other}"
        wait_for(lambda: is_healthy(address), "the server within its limit")
        assert chat(address, "Within the limit? " * 200)
        assert group.kills == 0


def test_a_changed_setting_makes_the_measurement_stale_and_it_is_repeated(tiny: Deployment) -> None:
    assert tiny.run().code == 0
    tiny.rig["models"][0]["serve"]["ubatch"] = 256
    changed = tiny.run()
    assert changed.changed == ["Memory of declared placements", "Models served"], str(changed)
    assert load_mode_of_measurement(tiny) == LoadModeChoice("none")


def load_mode_of_measurement(deployment: Deployment) -> LoadModeChoice:
    rig = Rig.model_validate(deployment.rig)
    measured = read_plan_file(rig.plan_file).measured[HOST]["tiny"]
    memory = {"tiny": memory_of_measured(measured, rig.models[0].serve.placement)}
    return load_modes(rig, memory, BoxCapacity(ram=23 << 30))["tiny"]
