"""What `llamarig adopt` makes of a command line means the same to the pinned build, by that build's own view.

Each server of tests/adopt/cases/ is asked twice, with the flags as they were given and with those that the declaration
renders: llama-fit-params for the memory of a full-size model on simulated cards, and llama-server, with a tiny model,
for its /props.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from llamarig.adopt.pinned_flags import PINNED_OPTIONS
from llamarig.declare.placement import CpuMoe, Layers
from llamarig.declare.rig import Rig
from llamarig.items.simulated_gpus import simulation_library
from llamarig.placement.dry_run import parse_prediction
from llamarig.render.release import release_path

from tests.adopt.golden import CASES
from tests.adopt.round_trip import Case, cases, memory_words, server_words
from tests.box.deployment import REPOSITORY_ROOT, Deployment
from tests.box.sparse_models import write_sparse
from tests.box.test_refusals_are_true import TINY
from tests.placement.model_shapes import SHAPES
from tests.readme_commands import ADOPT

pytestmark = pytest.mark.box

SERVERS = list(cases(CASES))
DIRECTORY = "var/tmp/adopt"
CARD = "A card:99000:98000"
PORT = 16
VOLATILE = {"media_marker", "model_alias", "model_path", "ui", "ui_settings", "webui", "webui_settings"}
"""Of /props: names of files and this start, and the pages, which a declared model has not got."""

PROPS = """
timeout 60 {program} --model $(ls {model}) --host 127.0.0.1 --port {port} --threads 1 {arguments} \\
  >/run/adopted 2>&1 & p=$!
for i in $(seq 200); do
  kill -0 $p 2>/dev/null || break
  curl -sf --noproxy '*' http://127.0.0.1:{port}/health >/dev/null && break
  sleep 0.2
done
curl -s --noproxy '*' http://127.0.0.1:{port}/props || tail -n 5 /run/adopted; kill $p 2>/dev/null; wait $p; true
"""


@dataclass(frozen=True)
class Pinned:
    """The programs of the pinned build on the box, and simulated cards."""

    deployment: Deployment
    programs: str
    library: str

    def memory(self, words: Sequence[str], cards: int) -> Mapping[str, tuple[int, int, int]]:
        """Device -> MiB of weights, of caches and of buffers, as llama-fit-params prints them."""
        devices = ",".join(f"CUDA{number}" for number in range(cards))
        arguments = shlex.join(["-m", f"/{DIRECTORY}/model.gguf", "-dev", devices, *words, "--fit-print", "on"])
        environment = (
            f"GGML_BACKEND_PATH={self.library} LLAMARIG_SIMULATED_GPUS={shlex.quote(','.join([CARD] * cards))}"
        )
        run = (
            f"python3 -B -m llamarig.remote.plan.dry_run 60 {self.programs}/llama-fit-params {arguments} --verbosity 5"
        )
        found = parse_prediction(self.deployment.shell(f"cd /opt/llamarig/lib && {environment} {run}"), "the case")
        return {row.name: (row.model_mib, row.context_mib, row.compute_mib) for row in (*found.gpus, found.host)}

    def props(self, words: Sequence[str]) -> dict[str, Any]:
        """What llama-server says of itself."""
        port = self.deployment.box.port + PORT
        program = f"{self.programs}/llama-server"
        script = PROPS.format(program=program, model=TINY, port=port, arguments=shlex.join(words))
        output = self.deployment.shell(script, timeout=120)
        assert output.startswith("{"), f"{shlex.join(words)}\n{output}"
        return {key: value for key, value in json.loads(output).items() if key not in VOLATILE}


@pytest.fixture(scope="module")
def pinned(converged: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pinned]:
    deployment = converged.variant(tmp_path_factory.mktemp("adopt"))
    prepared = deployment.run(script="tests/box/deploy_plan_prerequisites.py")
    assert prepared.code == 0, str(prepared)
    rig = Rig.model_validate(deployment.rig)
    directory: Path = deployment.box.root / DIRECTORY
    write_sparse(directory, "model", SHAPES["qwen3-coder-next-q6"])
    programs = f"{release_path(rig.builds[0], rig.models)}/bin"
    yield Pinned(deployment, programs, simulation_library(rig.builds[0]))
    deployment.shell(f"rm -r /{DIRECTORY}")


@pytest.mark.parametrize("case", SERVERS, ids=lambda case: case.name)
def test_a_declaration_takes_the_same_memory(pinned: Pinned, case: Case) -> None:
    placement = case.model.serve.placement
    names_another = any("=CUDA1" in word for word in case.original)
    cards = 2 if len(getattr(placement, "split", None) or ()) > 1 or names_another else 1
    given = pinned.memory(memory_words(case.original), cards)
    declared = pinned.memory(memory_words(case.declared), cards)
    if isinstance(placement, Layers) and cards > 1:
        # The same number of whole layers on each card, but not the same ones: they are where their KV cache is.
        assert declared["Host"][0] == given["Host"][0]
        for kind in (0, 1):
            totals = [sum(row[kind] for row in rows.values()) for rows in (declared, given)]
            assert abs(totals[0] - totals[1]) <= cards
    else:
        assert declared == given


@pytest.mark.parametrize("case", SERVERS, ids=lambda case: case.name)
def test_a_declaration_serves_as_the_command_line_does(pinned: Pinned, case: Case) -> None:
    assert pinned.props(server_words(case.declared)) == pinned.props(server_words(case.original))


def test_the_options_are_those_of_the_programs_help(pinned: Pinned) -> None:
    shown = pinned.deployment.shell(f"{pinned.programs}/llama-server --help 2>&1")
    wrong = []
    for option in set(PINNED_OPTIONS.values()):
        spellings = ", *".join(map(re.escape, option.spellings))
        listed = re.compile(rf"^{spellings}(?: (?! )(.+?))?(?:  |$)", re.MULTILINE)
        found = listed.search(shown)
        if found is None or (found[1] is not None) != bool(option.values):
            wrong.append((option, found))
    assert wrong == []


def test_a_running_server_is_adopted_without_its_secrets(pinned: Pinned) -> None:
    (command,) = (command for command in ADOPT if "tasks/adopt.py" in command)
    pinned.deployment.command("tasks/adopt.py")  # writes the inventory
    inventory = str(pinned.deployment.directory / "inventory.py")
    port = pinned.deployment.box.port + PORT
    variables = ("LLAMA_API_KEY=hunter2", "MY_TOKEN=hunter2", "GGML_CUDA_GRAPH_OPT=1", "CUDA_VISIBLE_DEVICES=0")
    flags = f"-m $(ls {TINY}) -c 2048 -np 2 --port {port} --top-k 7 --api-key hunter2 -ot exps=CPU"
    pinned.deployment.shell(
        f"systemd-run --unit by-hand {' '.join(f'-E {variable}' for variable in variables)} -p CPUAffinity=0 "
        f"{pinned.programs}/llama-server {flags}"
    )
    try:
        done = subprocess.run(
            [*command.replace("inventory/home.py", f"-vvv {inventory}").split(), "--data", "layers=4"],
            cwd=REPOSITORY_ROOT,
            env=dict(pinned.deployment.environment()),
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        pinned.deployment.shell("systemctl stop by-hand; systemctl reset-failed by-hand 2>/dev/null; true")
    assert done.returncode == 0, done.stderr
    names: dict[str, Any] = {}
    exec(compile(done.stdout, "printed", "exec"), names)
    (model,) = names["models"]
    serve = model.serve
    assert (model.name, serve.context, serve.parallel, serve.port) == ("by-hand", 2048, 2, port)
    assert (serve.sampling.top_k, serve.placement, serve.environment) == (
        7,
        CpuMoe(layers=4),
        {"GGML_CUDA_GRAPH_OPT": "1"},
    )
    assert serve.api_key_file == "/etc/llamarig/keys/by-hand"
    assert "CUDA_VISIBLE_DEVICES=0" in done.stderr
    assert "llamarig's own, and left out: llamarig-tiny.service" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
