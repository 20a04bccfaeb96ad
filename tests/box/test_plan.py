"""Plans for the four boxes of group_data/, made with the pinned llama-fit-params on simulated GPUs, and their use.

Every number of a plan is compared with the output of llama-fit-params for the same placement, and with the placement
that llama.cpp's own --fit chooses for the same header and margins.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.items.header_files import sparse_paths
from llamarig.items.simulated_gpus import simulation_library
from llamarig.records.model_lock import lock_key, read_model_lock
from llamarig.records.plan_file import Plan, read_plan_file
from llamarig.render import layout
from llamarig.render.placement_arguments import layers_with_experts_on_cpu, placement_arguments
from llamarig.render.release import release_path

from tests.box.deployment import HOST, Deployment
from tests.box.hub import Hub
from tests.box.refusals import lines
from tests.box.rehearse import chat
from tests.box.sparse_models import write_sparse
from tests.placement.model_shapes import SHAPES

pytestmark = pytest.mark.box

PREREQUISITES, PLAN = "tests/box/deploy_plan_prerequisites.py", "tasks/plan.py"
REPO = "acme/Planned-GGUF"
MARGIN = 384
Q8 = {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}


@dataclass(frozen=True)
class Box:
    """The cards (name, total MiB, free MiB) and the served models of one group in group_data/."""

    gpus: tuple[tuple[str, int, int], ...]
    models: dict[str, dict[str, Any]]


BOXES = {
    "A": Box(
        (("RTX 4090", 24564, 23671), ("RTX 5070 Ti", 16303, 12761)),
        {
            "qwen3-coder-next-q6": {"context": 262144, "ubatch": 2048, **Q8},
            "qwen3-coder-next-q6-fused": {"context": 262144, "ubatch": 512, **Q8},
            "gpt-oss-120b": {"context": 65536, "batch": 4096, "ubatch": 4096, **Q8},
        },
    ),
    "B": Box((("RTX 4070", 12282, 11600),), {"qwen3-coder-next-mxfp4": {"context": 131072, "threads": 10}}),
    "C": Box(
        (("RTX 16 GB", 16380, 15700),),
        {"qwen35-35b-a3b-q4": {"context": 65536, **Q8}, "qwen35-35b-a3b-q8": {"context": 65536, **Q8}},
    ),
    "D": Box(
        (("RX 7900 XT", 20464, 19900),),
        {
            "qwen3-coder-next-q4": {
                "context": 262144,
                "batch": 16384,
                "ubatch": 1024,
                "cache_type_k": "q4_1",
                "cache_type_v": "q4_1",
            },
            "qwen3-32b": {"context": 32768, **Q8},
        },
    ),
}
THREE_SHARDS = ("qwen3-coder-next-q6", "qwen35-35b-a3b-q4")
"""Models that also have a vocabulary of the real length, as the first shard of a real set has."""


@dataclass
class Planned:
    """The plans that tasks/plan.py made for one box, and what is needed to run llama-fit-params directly."""

    deployment: Deployment
    plans: dict[str, Plan]
    models: dict[str, Model]
    report: str
    headers: dict[str, str]
    release: str
    environment: dict[str, str]

    def fit_params(self, name: str, *arguments: str) -> str:
        """Run llama-fit-params with the model's declared settings except the placement; return its stdout."""
        serve = self.models[name].serve
        words = [f"{self.release}/bin/llama-fit-params", "-m", self.headers[name], "-fa", serve.flash_attention]
        words += ["-c", str(serve.context), "-b", str(serve.batch), "-ub", str(serve.ubatch), "-np", "1"]
        words += ["-ctk", serve.cache_type_k, "-ctv", serve.cache_type_v]
        words += ["-dev", ",".join(device.name for device in self.plans[name].belongs.devices), *arguments]
        variables = " ".join(f"{key}={shlex.quote(value)}" for key, value in self.environment.items())
        return self.deployment.shell(f"{variables} {shlex.join(words)} 2>/dev/null", timeout=120)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> dict[str, list[Path]]:
    directory = tmp_path_factory.mktemp("sparse")
    written = {
        name: write_sparse(
            directory, name, SHAPES[name], shards=3 if name in THREE_SHARDS else 1, tokens=name in THREE_SHARDS
        )
        for box in BOXES.values()
        for name in box.models
    }
    hub.add_sparse_repo(REPO, {file.name: file for files in written.values() for file in files})
    return written


@pytest.fixture(scope="module", params=BOXES)
def planned(
    request: pytest.FixtureRequest,
    converged: Deployment,
    files: dict[str, list[Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Planned]:
    """The converged box with plans for the cards and models of one group."""
    box = BOXES[request.param]
    deployment = converged.variant(tmp_path_factory.mktemp("planned"))
    tiny = deployment.rig["models"][0]
    deployment.rig["models"] = [
        {
            **tiny,
            "name": name,
            "repo": REPO,
            "quant": None,
            "files": [file.name for file in files[name]],
            "serve": {"port": 8080, "placement": {"kind": "auto", "margin_mib": MARGIN}, **serve},
        }
        for name, serve in box.models.items()
    ]
    deployment.rig["simulated_gpus"] = [
        {"name": name, "total_mib": total, "free_mib": free} for name, total, free in box.gpus
    ]
    prepared = deployment.run(script=PREREQUISITES)
    assert prepared.code == 0, str(prepared)
    done = deployment.run("--data", "update=all", script=PLAN)
    assert done.code == 0, str(done)
    rig = Rig.model_validate(deployment.rig)
    lock = read_model_lock(rig.model_lock)
    yield Planned(
        deployment,
        plans=read_plan_file(rig.plan_file).boxes[HOST],
        models={model.name: model for model in rig.models},
        report=done.output,
        headers={model.name: sparse_paths(lock.models[lock_key(model)])[0] for model in rig.models},
        release=release_path(rig.builds[0], rig.models),
        environment={
            "GGML_BACKEND_PATH": simulation_library(rig.builds[0]),
            "LLAMARIG_SIMULATED_GPUS": ",".join(f"{name}:{total}:{free}" for name, total, free in box.gpus),
        },
    )
    deployment.shell(f"rm -rf {layout.HEADERS}/*")


def rows(output: str) -> dict[str, tuple[int, int, int]]:
    """Parse llama-fit-params' output: device -> MiB of model, context and compute buffers."""
    found = (re.fullmatch(r"(\w+) (\d+) (\d+) (\d+) ?", line) for line in output.splitlines())
    return {row[1]: (int(row[2]), int(row[3]), int(row[4])) for row in found if row}


def test_predicted_memory_equals_llama_fit_params_to_the_mib(planned: Planned) -> None:
    """Except the compute buffer of the output: llama-fit-params reserves logits for a batch, a server one per slot."""
    for name, plan in planned.plans.items():
        placement = [word for flag in placement_arguments(plan.placement) for word in flag]
        printed = rows(planned.fit_params(name, *placement, "-fitp", "on"))
        output = max(index for index, share in enumerate(plan.placement.split) if share)
        for index, row in enumerate(plan.memory):
            predicted = (row.model_mib, row.context_mib, row.compute_mib)
            if index == output and plan.output_compute_mib is not None:
                assert row.compute_mib <= plan.output_compute_mib, name
                predicted = (row.model_mib, row.context_mib, plan.output_compute_mib)
            assert predicted == printed[row.name], (name, row.name)


def test_every_plan_leaves_the_margin_free(planned: Planned) -> None:
    for name, plan in planned.plans.items():
        for device, row in zip(plan.belongs.devices, plan.gpus, strict=True):
            assert row.total_mib <= device.free_mib - MARGIN, (name, device.name)


def test_one_more_layer_on_the_gpu_would_not_fit(planned: Planned) -> None:
    for name, plan in planned.plans.items():
        assert all(more.measured and more.needs_mib > more.has_mib for more in plan.next_layer), name
        if layers_with_experts_on_cpu(plan.placement):
            assert plan.next_layer, name


def test_a_plan_has_at_least_the_whole_layers_and_at_most_the_graph_splits_of_llama_cpps_fit(planned: Planned) -> None:
    for name, plan in planned.plans.items():
        assert plan.fit is not None, name
        assert sum(plan.placement.gpu) >= sum(plan.fit.whole), name
        assert plan.splits is not None, name
        assert plan.fit.splits is not None, name
        assert plan.splits[1] <= plan.fit.splits[1], name
        margins = ",".join([str(MARGIN)] * len(plan.gpus))
        output = planned.fit_params(name, "--fit", "on", "--fit-target", margins)
        assert " ".join(shlex.split(output)) == plan.fit.arguments, name


def test_overrides_move_only_experts_and_only_to_ram(planned: Planned) -> None:
    """So a layer's attention weights, KV cache and recurrent state stay on one device, that of the layer split."""
    for name, plan in planned.plans.items():
        values = {flag: value for flag, *values in placement_arguments(plan.placement) for value in values}
        for rule in filter(None, values.get("--override-tensor", "").split(",")):
            assert re.fullmatch(r"blk\[\.\].*\[\.\]ffn_\([a-z_|]+\)_\(ch\|\)exps=CPU", rule), (name, rule)
        total = SHAPES[name].layers + 1
        assert sum(plan.placement.split) + plan.placement.in_ram == total, name


def test_a_plan_takes_at_most_40_dry_runs(planned: Planned) -> None:
    for name, plan in planned.plans.items():
        assert plan.dry_runs <= 40, name


def test_the_report_shows_layers_memory_and_llama_cpps_fit(planned: Planned) -> None:
    for name, plan in planned.plans.items():
        assert f"{name}: {sum(plan.placement.gpu)} of {SHAPES[name].layers} layers whole on the GPUs" in planned.report
    for words in ("VRAM: # weights", "graph splits", "llama.cpp's own fit, same margins", "planned for: release"):
        assert words in planned.report


@pytest.mark.parametrize("planned", ["B"], indirect=True)
def test_planning_again_gives_the_same_plan_and_writes_nothing(planned: Planned) -> None:
    file = Path(planned.deployment.rig["plan_file"])
    before = file.read_bytes()
    again = planned.deployment.run(script=PLAN)
    assert again.code == 0, str(again)
    assert again.output.count(f"; the same plan as in {file}") == len(planned.plans)
    assert file.read_bytes() == before


# --- a deploy that uses a plan ---------------------------------------------------------------------------------------

CARD = {"name": "Toy", "total_mib": 4096, "free_mib": 4000}


@pytest.fixture
def tiny(deployment: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    """The tiny model, placed by a plan for a simulated card. The server itself runs on the CPU."""
    variant = deployment.variant(tmp_path / "variant")
    variant.rig["models"][0]["serve"]["placement"] = {"kind": "auto", "margin_mib": 0}
    variant.rig["simulated_gpus"] = [CARD]
    yield variant
    restored = deployment.run()
    assert restored.code == 0, str(restored)


def flags(deployment: Deployment) -> str:
    return deployment.shell("tr '\\0' ' ' </proc/$(systemctl show -P MainPID llamarig-tiny)/cmdline")


def test_a_deploy_makes_a_missing_plan_serves_with_it_and_refuses_a_stale_one(tiny: Deployment) -> None:
    first = tiny.run()
    assert first.code == 0, str(first)
    assert "tiny: planned with" in first.output
    plan = json.loads(Path(tiny.rig["plan_file"]).read_text())["boxes"][HOST]["tiny"]
    assert f"--tensor-split {','.join(map(str, plan['placement']['split']))}" in flags(tiny)
    assert chat(tiny.address, "Planned?")
    second = tiny.run()
    assert (second.code, second.changed) == (0, []), str(second)
    audited = tiny.run("-vv", script="tasks/audit.py")
    assert (audited.code, len(audited.commands_sent)) == (0, 1), "one command, as for a model without a plan"

    # A stale plan is refused before anything is changed, with the remedy.
    running = tiny.shell("systemctl show llamarig-tiny -p InvocationID; cat /etc/systemd/system/llamarig-tiny.service")
    tiny.rig["models"][0]["serve"]["context"] = 16384
    refused = tiny.run()
    assert refused.code == 1, str(refused)
    assert sum("--ctx-size 8192 is now 16384" in line for line in lines(refused)) == 1
    assert "tasks/plan.py --data update=tiny" in refused.output
    assert "Traceback" not in refused.output
    state = "systemctl show llamarig-tiny -p InvocationID; cat /etc/systemd/system/llamarig-tiny.service"
    assert tiny.shell(state) == running

    replanned = tiny.run("--data", "update=tiny", script=PLAN)
    assert replanned.code == 0, str(replanned)
    assert "--ctx-size 8192 is now 16384" in replanned.output
    assert "context 8192 becomes 16384" in replanned.output
    third = tiny.run()
    assert (third.code, third.changed) == (0, ["Models served"]), str(third)
    assert "--ctx-size 16384" in flags(tiny)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"simulated_gpus": []}, ("sees no GPU here", "simulated_gpus")),
        ({"simulated_gpus": [{**CARD, "free_mib": 1}]}, ("nothing fits", "CUDA0 would need", "give_up")),
    ],
    ids=["no GPU", "no room"],
)
def test_a_failed_plan_is_reported_once_and_writes_no_plan_file(
    deployment: Deployment, tmp_path: Path, change: dict[str, Any], words: tuple[str, ...]
) -> None:
    variant = deployment.variant(tmp_path / "variant")
    variant.rig["models"][0]["serve"]["placement"] = {"kind": "auto"}
    variant.rig.update(change)
    refused = variant.run(script=PLAN)
    assert refused.code == 1, str(refused)
    assert sum("cannot be planned" in line for line in lines(refused)) == 1, str(refused)
    for word in words:
        assert word in refused.output
    assert "Traceback" not in refused.output
    assert not Path(variant.rig["plan_file"]).exists()


def test_a_broken_plan_file_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    variant = deployment.variant(tmp_path / "variant")
    variant.rig["models"][0]["serve"]["placement"] = {"kind": "auto"}
    Path(variant.rig["plan_file"]).write_text("{")
    refused = variant.run()
    assert refused.code == 1, str(refused)
    assert "is not a valid plan file" in refused.output
    assert "restore it from git" in refused.output
    assert "Traceback" not in refused.output


def test_planning_with_a_release_without_llama_fit_params_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    """Older llama.cpp versions lack it. It is removed from the manifest too, so that the release counts as complete."""
    variant = deployment.variant(tmp_path / "variant")
    variant.rig["models"][0]["serve"]["placement"] = {"kind": "auto"}
    rig = Rig.model_validate(variant.rig)
    release = release_path(rig.builds[0], rig.models)
    without = (
        f"import json; p = '{release}/manifest.json'; m = json.load(open(p)); m['files'].pop('llama-fit-params'); "
        "json.dump(m, open(p, 'w'))"
    )
    variant.shell(
        f"cp {release}/manifest.json /tmp/manifest.json && mv {release}/bin/llama-fit-params /tmp && "
        f"python3 -c {shlex.quote(without)}"
    )
    try:
        refused = variant.run(script=PLAN)
    finally:
        variant.shell(f"mv /tmp/llama-fit-params {release}/bin/ && mv /tmp/manifest.json {release}/manifest.json")
    assert refused.code == 1, str(refused)
    assert sum("has no llama-fit-params" in line for line in lines(refused)) == 1, str(refused)
    assert "Traceback" not in refused.output
