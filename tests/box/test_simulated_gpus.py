"""Simulated GPUs: compiled on the box from the release's source, and used for dry runs of full-size models.

The output of llama-fit-params is compared with measured values and with values computed for the same commit; comments
give their sources. The headers are fetched with HTTP range requests from the stand-in Hub.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from llamarig.declare.rig import Rig
from llamarig.items.header_files import sparse_paths
from llamarig.items.simulated_gpus import simulation_library
from llamarig.records.model_lock import lock_key, read_model_lock
from llamarig.render import layout
from llamarig.render.release import release_path

from tests.box.deployment import Deployment
from tests.box.hub import Hub
from tests.box.sparse_models import write_sparse
from tests.placement.model_shapes import SHAPES

pytestmark = pytest.mark.box

SCRIPT = "tests/box/deploy_plan_prerequisites.py"
REPO = "acme/Sparse-GGUF"
THREE_SHARDS = ("qwen3-coder-next-q6", "qwen35-35b-a3b-q4")
"""Models that also have a vocabulary of the real length, as the first shard of a real set has."""

# Cards of the four boxes of group_data/: name, total and free MiB.
BOXES = {
    "A": "RTX 4090:24564:23671,RTX 5070 Ti:16303:12761",
    "B": "RTX 4070:12282:11600",
    "C": "RTX 16 GB:16380:15700",
    "D": "RX 7900 XT:20464:19900",
}
EXPERTS_IN_RAM = "[.]ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"


@dataclass
class DryRuns:
    """A box with everything that dry runs need. ``headers``: model -> path of its first shard."""

    deployment: Deployment
    release: str
    library: str
    headers: dict[str, str]

    def run(self, model: str, gpus: str, *arguments: str, variables: Mapping[str, str] | None = None) -> str:
        """Run llama-fit-params for a model on simulated GPUs; return its stdout."""
        devices = ",".join(f"CUDA{index}" for index in range(gpus.count(",") + 1))
        words = [
            f"{self.release}/bin/llama-fit-params",
            "--model",
            self.headers[model],
            "--device",
            devices,
            *arguments,
        ]
        environment = {"GGML_BACKEND_PATH": self.library, "LLAMARIG_SIMULATED_GPUS": gpus, **(variables or {})}
        assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
        return self.deployment.shell(f"{assignments} {shlex.join(words)} 2>/tmp/fit-params.log", timeout=120)

    def memory(
        self, model: str, gpus: str, *arguments: str, variables: Mapping[str, str] | None = None
    ) -> dict[str, tuple[int, int, int]]:
        """Return device -> MiB of model, context and compute buffers.

        Parsed from the plain lines, because about one run in forty loses the JSON record of --log-jsonl:
        llama-fit-params then ends before it has written its log.
        """
        output = self.run(model, gpus, *arguments, "--fit-print", "on", variables=variables)
        rows = re.findall(r"^(\w+) (\d+) (\d+) (\d+) *$", output, re.MULTILINE)
        return {name: (int(weights), int(context), int(compute)) for name, weights, context, compute in rows}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    directory = tmp_path_factory.mktemp("sparse")
    return {
        name: write_sparse(directory, name, shape, shards=3 if name in THREE_SHARDS else 1, tokens=name in THREE_SHARDS)
        for name, shape in SHAPES.items()
    }


@pytest.fixture(scope="module")
def planned(
    converged: Deployment, hub: Hub, models: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The converged box with every full-size model declared."""
    deployment = converged.variant(tmp_path_factory.mktemp("planned"))
    hub.add_sparse_repo(REPO, {file.name: file for files in models.values() for file in files})
    tiny = deployment.rig["models"][0]
    deployment.rig["models"] = [
        {**tiny, "name": name, "repo": REPO, "quant": None, "files": [file.name for file in files]}
        for name, files in models.items()
    ]
    # A box that was kept from an earlier run may have them already.
    deployment.shell(f"rm -rf {layout.SIMULATED}/* {layout.HEADERS}/*")
    yield deployment
    deployment.shell(f"rm -rf {layout.SIMULATED}/* {layout.HEADERS}/*")


@pytest.fixture(scope="module")
def dry_runs(planned: Deployment, hub: Hub) -> DryRuns:
    hub.log.clear()
    done = planned.run(script=SCRIPT)
    assert done.code == 0, done
    assert done.changed == ["Model lock", "Simulated GPUs", "Headers"]
    rig = Rig.model_validate(planned.rig)
    lock = read_model_lock(rig.model_lock)
    headers = {model.name: sparse_paths(lock.models[lock_key(model)])[0] for model in rig.models}
    return DryRuns(planned, release_path(rig.builds[0], rig.models), simulation_library(rig.builds[0]), headers)


def test_headers_are_fetched_by_range_requests_of_a_few_megabytes(
    dry_runs: DryRuns, hub: Hub, models: dict[str, list[Path]]
) -> None:
    bodies = [entry for entry in hub.log.as_json() if entry["origin"] == "cdn"]
    assert all(entry["status"] == 206 for entry in bodies)
    assert sum(entry["bytes_sent"] for entry in bodies) < 16 << 20
    for name, files in models.items():
        first = dry_runs.headers[name]
        sizes = dry_runs.deployment.shell(f"stat -c '%s %n' {first.rpartition('/')[0]}/* | sort -k2").splitlines()
        assert [int(line.split()[0]) for line in sizes] == [file.stat().st_size for file in files]
    # Sparse files: hundreds of GB in size, less than 40 MB on disk.
    assert int(dry_runs.deployment.shell(f"du -sm {layout.HEADERS}").split()[0]) < 40


def test_a_second_run_changes_nothing_and_sends_no_request(dry_runs: DryRuns, hub: Hub) -> None:
    hub.log.clear()
    again = dry_runs.deployment.run(script=SCRIPT)
    assert (again.code, again.changed) == (0, []), again
    assert hub.log.as_json() == []


def test_a_damaged_library_is_built_again(dry_runs: DryRuns) -> None:
    dry_runs.deployment.shell(f"printf x >>{dry_runs.library}")
    again = dry_runs.deployment.run(script=SCRIPT)
    assert (again.code, again.changed) == (0, ["Simulated GPUs"]), again


@pytest.mark.parametrize("box", BOXES)
def test_a_dry_run_counts_all_weights_of_every_model_on_every_box(box: str, dry_runs: DryRuns) -> None:
    gpus = BOXES[box]
    for name, shape in SHAPES.items():
        weights = sum(shape.size(*tensor) for tensor in shape.tensors()) / 2**20
        placement = ["-ot", EXPERTS_IN_RAM] if shape.experts else []
        found = dry_runs.memory(name, gpus, "-c", "65536", "-fa", "on", "-ngl", "999", *placement)
        devices = [f"CUDA{index}" for index in range(gpus.count(",") + 1)]
        assert [row for row in found if row != "Host"] == devices, name
        # Each device's value is rounded to MiB and slightly padded.
        model = sum(row[0] for row in found.values())
        assert weights - len(found) <= model <= 1.001 * weights + 3, name
        assert all(found[device][1] > 0 and found[device][2] > 0 for device in devices), name


QUANTIZED_CACHE = ("-c", "262144", "-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0", "-ub", "2048", "-b", "2048")


# Qwen3-Coder-Next Q6_K on box A's two cards, experts in RAM, `-ts 32,17`. At 256K, the KV cache takes 272 MiB for each
# of 12 attention layers, the state 2.09375 MiB for each of the 36 others. 8 and 24 of them are on the first GPU, which
# gives 2176 + 50 MiB there and 1088 + 25 MiB on the second, as in the log of the box. Known compute buffers of the
# second GPU: 1744 MiB at 256K, 2470 MiB at 64K with a batch of 4096, whose logits llama-fit-params counts in full.
IN_RAM = ("-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0", "-ngl", "999", "-ts", "32,17", "-ot", "exps=CPU")
KNOWN = [
    ("262144", "2048", {"CUDA0": (1013, 2226), "CUDA1": (750, 1113, 1744), "Host": (60723, 0, 1056)}),
    ("262144", "512", {"CUDA0": (1013, 2226), "CUDA1": (750, 1113), "Host": (60723, 0, 264)}),
    ("65536", "4096", {"CUDA0": (1013, 594), "CUDA1": (750, 297, 2470), "Host": (60723, 0)}),
]


@pytest.mark.parametrize(("context", "ubatch", "known"), KNOWN)
def test_dry_runs_give_the_known_values_to_the_mib(
    context: str, ubatch: str, known: dict[str, tuple[int, ...]], dry_runs: DryRuns
) -> None:
    found = dry_runs.memory("qwen3-coder-next-q6", BOXES["A"], "-c", context, "-ub", ubatch, "-b", ubatch, *IN_RAM)
    assert {device: row[: len(known[device])] for device, row in found.items()} == known


# ubatch -> compute buffer of the first GPU in MiB at 64K and at 256K, from a simulation of the same commit without the
# graph optimiser.
WITHOUT_OPTIMISER = {"512": (924, 1216), "1024": (1008, 1500), "2048": (1176, 2068), "4096": (1512, 3204)}


def test_fusions_of_the_graph_optimiser_enlarge_compute_buffers(dry_runs: DryRuns) -> None:
    """Fused operations keep tensors alive longer. GGML_CUDA_DISABLE_FUSION gives the known smaller buffers."""
    for ubatch, known in WITHOUT_OPTIMISER.items():
        for context, compute in zip(("65536", "262144"), known, strict=True):
            arguments = ("-c", context, "-ub", ubatch, "-b", ubatch, *IN_RAM)
            plain = dry_runs.memory(
                "qwen3-coder-next-q6", BOXES["A"], *arguments, variables={"GGML_CUDA_DISABLE_FUSION": "1"}
            )
            fused = dry_runs.memory("qwen3-coder-next-q6", BOXES["A"], *arguments)
            assert plain["CUDA0"][2] == compute
            assert fused["CUDA0"][2] > compute


@pytest.mark.parametrize("name", ["qwen3-coder-next-q6", "qwen3-coder-next-q6-fused"])
def test_fused_and_separate_expert_tensors_take_the_same_memory(name: str, dry_runs: DryRuns) -> None:
    # The experts of a layer take 1260 MiB at Q6_K; the second placement has those of 12 more layers on the first GPU.
    placed = [*QUANTIZED_CACHE, "-ngl", "999", "-ts", "31,18", "-ot"]
    none = dry_runs.memory(name, BOXES["A"], *placed, EXPERTS_IN_RAM)
    some = dry_runs.memory(name, BOXES["A"], *placed, "blk[.](1[2-9]|[234][0-9])" + EXPERTS_IN_RAM)
    assert some["CUDA0"][0] - none["CUDA0"][0] == 12 * 1260
    assert none["Host"][0] - some["Host"][0] == 12 * 1260
    assert some["CUDA1"] == none["CUDA1"]


def test_llama_cpps_fit_works_on_simulated_gpus(dry_runs: DryRuns) -> None:
    # Known for the same commit, cards and model: `-ts 16,33`, layers 0 to 20 whole, layer 21 without its ffn_down.
    line = dry_runs.run("qwen3-coder-next-q6", BOXES["A"], *QUANTIZED_CACHE, "--fit", "on", "--fit-target", "128")
    assert re.match(r'-c 262144 -ngl 49 -ts 16,33 -ot "blk\\.21\\.ffn_down[.]\*=CPU,blk\\.22\\.ffn_\(up', line), line


@pytest.mark.parametrize("gpus", ["RTX 4090", "RTX 4090:24564", "RTX 4090:1000:2000", "RTX 4090:24564:23671,"])
def test_an_invalid_card_specification_is_refused(gpus: str, dry_runs: DryRuns) -> None:
    command = f"GGML_BACKEND_PATH={dry_runs.library} LLAMARIG_SIMULATED_GPUS={shlex.quote(gpus)}"
    output = dry_runs.deployment.shell(
        f"{command} {dry_runs.release}/bin/llama-fit-params --list-devices 2>&1; echo $?"
    )
    assert output.splitlines()[-1] == "1"
    assert "is no card: write NAME:TOTAL_MIB:FREE_MIB" in output


def test_no_header_is_fetched_for_a_model_whose_files_are_on_the_box(
    dry_runs: DryRuns, deployment: Deployment, hub: Hub
) -> None:
    hub.log.clear()
    done = deployment.run(script=SCRIPT)
    assert (done.code, done.changed) == (0, []), done
    assert hub.log.as_json() == []
    rig = Rig.model_validate(deployment.rig)
    locked = read_model_lock(rig.model_lock).models[lock_key(rig.models[0])]
    assert deployment.shell(f"ls {' '.join(sparse_paths(locked))} 2>/dev/null | wc -l") == "0"


def test_a_source_tree_with_an_unknown_cuda_backend_is_refused_in_one_message(dry_runs: DryRuns) -> None:
    rig = Rig.model_validate(dry_runs.deployment.rig)
    tree = release_path(rig.builds[0], rig.models).replace(layout.RELEASES, layout.WORK) + "/source"
    file = f"{tree}/ggml/src/ggml-cuda/ggml-cuda.cu"
    dry_runs.deployment.shell(
        f"cp {file} /tmp/ggml-cuda.cu && sed -i s/ggml_backend_cuda_graph_optimize/another_name/g {file}; "
        f"rm -r {dry_runs.library.rpartition('/')[0]}"
    )
    try:
        refused = dry_runs.deployment.run(script=SCRIPT)
    finally:
        dry_runs.deployment.shell(f"cp /tmp/ggml-cuda.cu {file}")
    assert refused.code == 1, refused
    assert refused.output.count("this commit's CUDA backend has no ggml_backend_cuda_graph_optimize") == 1
    assert "Traceback" not in refused.output
    repaired = dry_runs.deployment.run(script=SCRIPT)
    assert (repaired.code, repaired.changed) == (0, ["Simulated GPUs"]), repaired
