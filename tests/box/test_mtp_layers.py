"""Models with a multi-token prediction layer: a plan has each layer on the device that llama.cpp's log reports.

With the headers of tests/placement/mtp_models.py, the pinned llama.cpp and simulated GPUs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from llamarig.declare.placement import Layers, Override, Placement
from llamarig.declare.rig import Rig
from llamarig.items.header_files import sparse_paths
from llamarig.items.simulated_gpus import simulation_library
from llamarig.records.model_lock import lock_key, read_model_lock
from llamarig.records.plan_file import Plan, read_plan_file
from llamarig.render import layout
from llamarig.render.model_paths import target
from llamarig.render.release import release_path

from tests.box.deployment import HOST, Deployment
from tests.box.hub import Hub
from tests.placement.loader_shapes import write, write_head
from tests.placement.mtp_models import (
    NAMES,
    POSITIONS,
    flags,
    header,
    header_bytes,
    layers_by_plan,
    loaded,
    trunk_only,
    trunk_only_bytes,
)

pytestmark = pytest.mark.box

PREREQUISITES, PLAN = "tests/box/deploy_plan_prerequisites.py", "tasks/plan.py"
REPO = "acme/MTP-GGUF"
CARDS = (("RTX 4070", 12282, 11600), ("RTX 5070 Ti", 16303, 12761))
TRUNK = "glm45_air"
"""Also tested as a file whose last block has no tensors. The pinned commit cannot load such a qwen35moe file."""
MODELS = {name: (header_bytes(name), header(name)) for name in NAMES} | {
    f"{TRUNK}-trunk": (trunk_only_bytes(TRUNK), trunk_only(TRUNK))
}
_ASSIGNED = re.compile(r"load_tensors: layer +(\d+) assigned to device (\w+)")


@dataclass
class Planned:
    """A box with plans for these models, and what is needed to run its llama-fit-params."""

    plans: dict[str, Plan]
    report: str
    deployment: Deployment
    headers: dict[str, str]
    program: str
    environment: dict[str, str]

    def devices(self, model: str, placement: Placement) -> tuple[dict[int, str], str]:
        """Return layer -> device from llama.cpp's log (the output counts as a last layer), and the whole log."""
        cards = ",".join(f"CUDA{index}" for index in range(len(CARDS)))
        words = [self.program, "-m", self.headers[model], "-dev", cards, "-c", "4096", *flags(placement)]
        variables = " ".join(f"{key}={shlex.quote(value)}" for key, value in self.environment.items())
        log = self.deployment.shell(f"{variables} {shlex.join([*words, '-fitp', 'on', '-lv', '5'])} 2>&1", timeout=120)
        return {int(found[1]): found[2] for found in _ASSIGNED.finditer(log)}, log


@pytest.fixture(scope="module")
def planned(converged: Deployment, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planned]:
    """The converged box, with every model placed by auto() on two simulated cards."""
    directory, files = tmp_path_factory.mktemp("mtp"), {}
    for name, (data, read) in MODELS.items():
        files[f"{name}.gguf"] = file = directory / f"{name}.gguf"
        with file.open("wb") as out:
            out.write(data)
            out.truncate(read.least_file_size)
    hub.add_sparse_repo(REPO, files)
    deployment = converged.variant(tmp_path_factory.mktemp("planned"))
    tiny = deployment.rig["models"][0]
    serve = {"port": 8080, "context": 32768, "placement": {"kind": "auto"}}
    deployment.rig["models"] = [
        {
            **tiny,
            "name": name.replace("_", "-"),
            "repo": REPO,
            "quant": None,
            "files": [f"{name}.gguf"],
            "serve": serve,
        }
        for name in MODELS
    ]
    deployment.rig["simulated_gpus"] = [
        {"name": name, "total_mib": total, "free_mib": free} for name, total, free in CARDS
    ]
    prepared = deployment.run(script=PREREQUISITES)
    assert prepared.code == 0, str(prepared)
    done = deployment.run("--data", "update=all", script=PLAN)
    assert done.code == 0, str(done)
    rig = Rig.model_validate(deployment.rig)
    lock, plans = read_model_lock(rig.model_lock), read_plan_file(rig.plan_file).boxes[HOST]
    by_name = dict(zip(MODELS, rig.models, strict=True))
    yield Planned(
        plans={name: plans[model.name] for name, model in by_name.items()},
        report=done.output,
        deployment=deployment,
        headers={name: sparse_paths(lock.models[lock_key(model)])[0] for name, model in by_name.items()},
        program=f"{release_path(rig.builds[0], rig.models)}/bin/llama-fit-params",
        environment={
            "GGML_BACKEND_PATH": simulation_library(rig.builds[0]),
            "LLAMARIG_SIMULATED_GPUS": ",".join(f"{name}:{total}:{free}" for name, total, free in CARDS),
        },
    )
    deployment.shell(f"rm -rf {layout.HEADERS}/*")


def device_name(gpu: int | None) -> str:
    return "CPU" if gpu is None else f"CUDA{gpu}"


@pytest.mark.parametrize("model", MODELS)
def test_a_planned_layer_is_on_the_device_that_llama_cpp_reports(model: str, planned: Planned) -> None:
    placement = planned.plans[model].placement
    positions = POSITIONS[model.removesuffix("-trunk")]
    assert sum(placement.split) + placement.in_ram == positions
    devices, log = planned.devices(model, placement)
    assert set(devices) == set(range(positions))
    assert f"offloaded {positions}/{positions} layers to GPU" in log
    planned_layers = layers_by_plan(placement)
    assert list(planned_layers) == list(range(positions - 2))
    assert {layer: device_name(gpu) for layer, gpu in planned_layers.items()} == {
        layer: devices[layer] for layer in planned_layers
    }
    last = device_name(max(gpu for gpu, share in enumerate(placement.split) if share))
    assert (devices[positions - 2], devices[positions - 1]) == (last, last)


SPLITS = [(25, 17), (24, 18), (9, 33), (1, 41), (42, 0), (38, 1), (20, 19), (1, 1), (12, 30)]
"""Tensor splits over 42 positions. Where the shares add up to fewer, the first layers are in RAM."""


@pytest.mark.parametrize("model", MODELS)
def test_llama_cpp_places_layers_as_declared_by_split_and_in_ram(model: str, planned: Planned) -> None:
    positions = POSITIONS[model.removesuffix("-trunk")]
    for first, second in SPLITS:
        split, in_ram = (first, second + (positions - 42) * (second > 1)), 0
        in_ram = positions - sum(split)
        nextn = min(1, split[1])
        placement = Layers(gpu=(0, 0), split=split, in_ram=in_ram, nextn=nextn)
        devices, _ = planned.devices(model, placement)
        planned_layers = layers_by_plan(placement)
        assert {layer: device_name(gpu) for layer, gpu in planned_layers.items()} == {
            layer: devices[layer] for layer in planned_layers
        }, split
        assert [layer for layer, device in devices.items() if device == "CPU"] == list(range(in_ram)), split


@pytest.mark.parametrize("model", MODELS)
def test_the_tests_model_of_layer_placement_matches_llama_cpp(model: str, planned: Planned) -> None:
    """Also for shares with a wrong sum. Tests without a box use this model (tests/placement/mtp_models.py)."""
    for split, on_gpu in (((24, 17), 99), ((3, 2), 99), ((9, 38), 30), ((1, 1), 41), ((7, 5), 1)):
        placement = Override(rules=("exps=CPU",), split=split, gpu_layers=on_gpu)
        devices, _ = planned.devices(model, placement)
        expected = loaded(flags(placement), MODELS[model][1], 2).homes
        assert {layer: device_name(gpu) for layer, gpu in expected.items()} == {
            layer: devices[layer] for layer in expected
        }


def test_a_multi_token_prediction_layer_takes_no_memory(planned: Planned) -> None:
    """The plan is the same as for the file without that layer's tensors."""
    whole, trunk = planned.plans[TRUNK], planned.plans[f"{TRUNK}-trunk"]
    assert whole.placement == trunk.placement
    assert [row.model_mib for row in whole.memory] == [row.model_mib for row in trunk.memory]
    for name in NAMES:
        whole = planned.plans[name]
        weights = loaded(flags(whole.placement), header(name), 2)
        for row, mib in zip(whole.memory, (*weights.gpus, weights.ram), strict=True):
            assert abs(row.model_mib - mib) <= 3, name  # llama.cpp rounds and pads each tensor
    assert "of 40 layers whole on the GPUs" in planned.report
    assert "of 46 layers whole on the GPUs" in planned.report


def test_a_draft_file_that_cannot_be_measured_alone_is_planned_for(
    converged: Deployment, hub: Hub, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """llama-fit-params ends with a segmentation fault on a file that has only layers of multi-token prediction."""
    directory = tmp_path_factory.mktemp("draft")
    files = {"nextn-without-tensors.gguf": write(directory, "nextn without tensors"), "mtp-head.gguf": directory / "h"}
    write_head(files["mtp-head.gguf"])
    hub.add_sparse_repo("acme/Head-GGUF", files)
    deployment = converged.variant(directory)
    tiny = deployment.rig["models"][0]
    speculation = {"types": ["draft-mtp"]}
    serve = {"port": 8080, "context": 8192, "placement": {"kind": "auto"}, "speculation": speculation}
    model = {**tiny, "name": "headed", "repo": "acme/Head-GGUF", "quant": None, "serve": serve}
    deployment.rig["models"] = [{**model, "files": ["nextn-without-tensors.gguf"], "draft": "mtp-head.gguf"}]
    deployment.rig["simulated_gpus"] = [
        {"name": name, "total_mib": total, "free_mib": free} for name, total, free in CARDS
    ]
    assert deployment.run(script=PREREQUISITES).code == 0
    rig = Rig.model_validate(deployment.rig)
    locked = read_model_lock(rig.model_lock).models[lock_key(rig.models[0])]
    assert locked.draft is not None
    path = deployment.box.root / target(locked, locked.draft).lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_head(path)
        path.chmod(0o644)
        done = deployment.run("--data", "update=headed", script=PLAN)
        assert done.code == 0, str(done)
        others = read_plan_file(rig.plan_file).boxes[HOST]["headed"].belongs.others_mib
        # As the server's own log has them: 521 MiB of weights, 9 of cache and 100 of compute buffers.
        assert others[0] == 0
        assert 521 + 9 + 98 <= others[1] <= 521 + 9 + 150
        assert "its draft cannot be measured alone" in done.output
    finally:
        deployment.shell(f"rm -rf {layout.HEADERS}/* {layout.MODELS}/acme")
