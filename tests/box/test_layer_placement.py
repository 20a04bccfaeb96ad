"""Where the pinned llama.cpp puts layers and weights of all kinds of models, and where the product counts them.

Each model of tests/placement/loader_shapes.py, and full-size ones of other kinds, is loaded by llama-fit-params on two
simulated cards with a table of splits. Its own log names the device of each layer, its result the MiB of weights. With
speculation draft-mtp, llama-server itself is started.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from llamarig.declare.placement import AllOnGpu, Layers
from llamarig.declare.rig import Rig
from llamarig.items.simulated_gpus import simulation_library
from llamarig.placement.dry_run import parse_prediction
from llamarig.placement.model_layers import layer_weights
from llamarig.placement.speculation_memory import with_speculation
from llamarig.remote.shared.server_log import read_log
from llamarig.render.placement_arguments import device_of_layers, placement_arguments
from llamarig.render.release import release_path

from tests.box.deployment import Deployment
from tests.box.sparse_models import write_sparse
from tests.placement.example_models import model
from tests.placement.loader_shapes import SHAPES, counted_mib, header_of, placements, write, write_shape
from tests.placement.model_shapes import GPT_OSS_120B, QWEN3_CODER_NEXT, ModelShape

pytestmark = pytest.mark.box

GPUS = ("CUDA0", "CUDA1")
DIRECTORY = "var/tmp/loader-shapes"
OTHERS: dict[str, ModelShape] = {"hybrid": QWEN3_CODER_NEXT, "gpt-oss": GPT_OSS_120B}


@dataclass(frozen=True)
class Loader:
    """The release's llama-fit-params on the box, with simulated cards."""

    deployment: Deployment
    program: str
    environment: str

    def dry_run(self, flags: str) -> str:
        """Shell command of a dry run, as a plan makes it: no line of its log is lost, or mixed with the result."""
        run = f"python3 -B -m llamarig.remote.plan.dry_run 60 {self.program} {flags} --fit-print on --verbosity 5"
        return f"cd /opt/llamarig/lib && {self.environment} {run}"

    def loads(self, path: Path, table: Sequence[Layers]) -> list[tuple[dict[int, str], dict[str, int]]]:
        """For each placement: the device of each layer in the log, and the MiB of weights on each device."""
        runs = []
        for placement in table:
            flags = [word for flag in placement_arguments(placement) for word in flag]
            words = ["-m", f"/{DIRECTORY}/{path.name}", "-dev", ",".join(GPUS), "-c", "4096", *flags]
            runs.append(f"{self.dry_run(shlex.join(words))}; echo ===")
        logs = self.deployment.shell("\n".join(runs), timeout=300).split("===")[: len(table)]
        found = [parse_prediction(log, path.name) for log in logs]
        return [
            (dict(each.layer_devices), {row.name: row.model_mib for row in (*each.gpus, each.host)}) for each in found
        ]

    def started(self, flags: str) -> list[str]:
        """The log of llama-server until it listens or ends; it is stopped then."""
        server = f"{self.program.rpartition('/')[0]}/llama-server"
        log = f"/{DIRECTORY}/server.log"
        command = (
            f"{self.environment} GGML_NO_BACKTRACE=1 {server} {flags} --host /{DIRECTORY}/api.sock --no-warmup -lv 4"
        )
        listens = f"grep -q listening {log}"
        wait = f"for _ in $(seq 500); do {listens} && break; kill -0 $! 2>/dev/null || break; sleep 0.2; done"
        return self.deployment.shell(
            # Without the log of the server before, which ends with that it listens.
            f"rm -f /{DIRECTORY}/api.sock {log}; touch {log}; {command} >>{log} 2>&1 & {wait}; "
            f"kill $! 2>/dev/null; wait; cat {log}",
            timeout=180,
        ).splitlines()


@pytest.fixture(scope="module")
def loader(converged: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    deployment = converged.variant(tmp_path_factory.mktemp("loader"))
    prepared = deployment.run(script="tests/box/deploy_plan_prerequisites.py")
    assert prepared.code == 0, str(prepared)
    rig = Rig.model_validate(deployment.rig)
    (deployment.box.root / DIRECTORY).mkdir(parents=True, exist_ok=True)
    cards = shlex.quote("A card:99000:98000,Another:99000:98000")
    yield Loader(
        deployment,
        f"{release_path(rig.builds[0], rig.models)}/bin/llama-fit-params",
        f"GGML_BACKEND_PATH={simulation_library(rig.builds[0])} LLAMARIG_SIMULATED_GPUS={cards}",
    )
    deployment.shell(f"rm -rf /{DIRECTORY}")


@pytest.mark.parametrize("name", [*SHAPES, *OTHERS])
def test_layers_and_weights_are_where_the_product_counts_them(name: str, loader: Loader) -> None:
    directory = loader.deployment.box.root / DIRECTORY
    path = write(directory, name) if name in SHAPES else write_sparse(directory, name, OTHERS[name])[0]
    of = header_of(path)
    table = placements(of)
    for placement, (devices, mib) in zip(table, loader.loads(path, table), strict=True):
        assert devices == device_of_layers(placement, GPUS), placement
        counted = counted_mib(placement, of, GPUS)
        counted["Host"] = counted.pop("CPU")
        assert mib.keys() == counted.keys(), placement
        # llama.cpp pads each tensor and rounds each device down to whole MiB.
        assert all(abs(mib[device] - counted[device]) <= 4 for device in counted), (placement, mib, counted)


def test_more_than_98_layers_are_all_on_the_gpus(loader: Loader) -> None:
    """What all_on_gpu() asks for; the number that is enough for other models leaves the first layers in RAM."""
    path = write_shape(replace(SHAPES["dense"], layers=120), loader.deployment.box.root / DIRECTORY / "deep.gguf")
    header = header_of(path)
    positions = layer_weights(header).positions
    on_gpus = []
    for known in (positions, 0):
        flags = [word for flag in placement_arguments(AllOnGpu(), known) for word in flag]
        words = shlex.join(["-m", f"/{DIRECTORY}/{path.name}", "-dev", ",".join(GPUS), "-c", "4096", *flags])
        devices = parse_prediction(loader.deployment.shell(loader.dry_run(words), timeout=120), "deep").layer_devices
        on_gpus.append(sum(device != "CPU" for device in devices.values()))
    assert on_gpus == [121, 99]


SPECULATING = ("nextn", "hunyuan", "nextn that is loaded in part")


@pytest.mark.parametrize("name", SPECULATING)
def test_speculation_takes_the_memory_that_a_plan_counts(name: str, loader: Loader) -> None:
    path = write(loader.deployment.box.root / DIRECTORY, name)
    of = header_of(path)
    positions = layer_weights(of).positions
    flags = f"-m /{DIRECTORY}/{path.name} -dev {','.join(GPUS)} -c 8192 -np 1 -b 2048 -ub 512 -fa on -ngl 99 "
    flags += f"-ts 5,{positions - 5} --fit off"
    output = loader.deployment.shell(loader.dry_run(flags), timeout=120)
    declared = model(context=8192, ubatch=512, speculation={"types": ["draft-mtp"]})
    counted = with_speculation(parse_prediction(output, name), declared, of)
    log = read_log(loader.started(f"{flags} --spec-type draft-mtp"))
    for row in counted.gpus:
        took = log.memory[row.name]
        assert abs(took.model - row.model_mib) <= 2, row
        assert -1 <= row.context_mib - took.context <= 20, row  # a layer with a sliding window has a smaller cache
        assert took.compute + took.second <= row.compute_mib + 1, row
    assert log.memory[GPUS[1]].second > 0


def test_draft_mtp_does_not_start_where_it_is_refused(loader: Loader) -> None:
    """The refusal ``mtp-missing``, held against llama-server."""
    for name in ("nextn that is never loaded", "nextn without tensors", "two nextn layers"):
        path = write(loader.deployment.box.root / DIRECTORY, name)
        log = "\n".join(loader.started(f"-m /{DIRECTORY}/{path.name} -c 4096 -ngl 0 --spec-type draft-mtp"))
        words = ("failed to create MTP context", "MTP block missing", "only supports a single MTP block")
        assert any(each in log for each in words), log[-2000:]
        assert "listening" not in log
