"""tasks/choose.py on a box: ten quants of a full-size model on the stand-in Hub, as sparse files with real headers."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.render import layout

from tests.box.deployment import HOST, Deployment, Outcome
from tests.box.hub import Hub
from tests.box.rehearse import chat
from tests.box.sparse_models import write_sparse
from tests.placement.model_shapes import QWEN3_30B_A3B, QWEN3_CODER_NEXT, ModelShape

pytestmark = pytest.mark.box

CHOOSE = "tasks/choose.py"
OWNER = f"acme-{secrets.token_hex(4)}"
"""Of repositories that no earlier run has headers of in the user's cache."""
REPO, SMALL = f"{OWNER}/Qwen3-Coder-Next-GGUF", f"{OWNER}/Qwen3-30B-A3B-GGUF"
QUANTS = ("IQ2_XS", "Q2_K", "IQ3_S", "Q3_K", "IQ4_XS", "Q4_K_M", "Q5_K", "Q6_K", "Q8_0", "BF16")
TWO_CARDS = [
    {"name": "RTX 4090", "total_mib": 24564, "free_mib": 23671},
    {"name": "RTX 5070 Ti", "total_mib": 16303, "free_mib": 12761},
]


def quants(directory: Path, name: str, shape: ModelShape, of: tuple[str, ...]) -> dict[str, Path]:
    """Path in the repository -> file, of one quant each, the largest in a folder of shards."""
    found: dict[str, Path] = {}
    for quant in of:
        shards = 3 if quant in ("Q8_0", "BF16") else 1
        files = write_sparse(directory, f"{name}-{quant}", replace(shape, quant=quant), shards=shards, tokens=True)
        found |= {f"{quant}/{file.name}" if shards > 1 else file.name: file for file in files}
    return found


@pytest.fixture(scope="module")
def served(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    directory = tmp_path_factory.mktemp("quants")
    files = quants(directory, "Qwen3-Coder-Next", QWEN3_CODER_NEXT, QUANTS)
    small = quants(directory, "Qwen3-30B-A3B", QWEN3_30B_A3B, ("Q4_K_M", "Q8_0"))
    projector = directory / "mmproj-F16.gguf"
    projector.write_bytes(b"GGUF")
    hub.add_sparse_repo(REPO, {**files, projector.name: projector})
    hub.add_sparse_repo(SMALL, small)
    hub.add_sparse_repo("acme/Gated-GGUF", small, gated_token="hf_fortests")
    readme = directory / "README.md"
    readme.write_text("none")
    hub.add_repo("acme/Without-GGUF", {"README.md": readme})
    return hub


@pytest.fixture(scope="module")
def chosen(converged: Deployment, served: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The first run for ten quants on two cards, with no header of them in the cache; what it keeps is removed."""
    cache = converged.box.cache / "hub-headers"
    others = set(cache.glob("*"))
    deployment = converged.variant(tmp_path_factory.mktemp("chosen"))
    deployment.rig["simulated_gpus"] = TWO_CARDS
    served.log.clear()
    before = deployment.shell("systemctl show llamarig-tiny -p MainPID --value")
    outcome = deployment.run("--data", f"repo={REPO}", script=CHOOSE)
    assert outcome.code == 0, str(outcome)
    bodies = [entry for entry in served.log.as_json() if entry["origin"] == "cdn"]
    yield Run(deployment, outcome, bodies, before)
    for header in set(cache.glob("*")) - others:
        header.unlink()


@dataclass(frozen=True)
class Run:
    """A run, the requests of its headers, and the process that served before it."""

    deployment: Deployment
    outcome: Outcome
    bodies: list[dict[str, Any]]
    server: str


def block(outcome: Outcome, name: str = HOST) -> list[str]:
    """The lines of the closing block about a host, the headline first."""
    lines = [line.strip() for line in click.unstyle(outcome.output).splitlines()]
    return lines[lines.index(next(line for line in lines if line.startswith(f"{name}: "))) :]


def pasted(outcome: Outcome) -> dict[str, Any]:
    """The declaration of the line to paste."""
    line = next(line for line in block(outcome) if line.startswith("d.model("))
    found: dict[str, Any] = eval(line.removesuffix(","), {"d": d}).to_json()
    return found


def layers(outcome: Outcome, quant: str) -> list[str]:
    """The cells of a quant's line that are about contexts."""
    line = next(line for line in block(outcome) if re.match(rf"(?:[*] )?{quant} ", line))
    return line.removeprefix("* ").split()[2:6]


def test_ten_quants_are_compared_on_two_cards(chosen: Run) -> None:
    lines = block(chosen.outcome)
    print("\n".join(lines))
    assert lines[0].startswith(f"{HOST}: {REPO}: ")
    assert " layers whole on the GPUs" in lines[0]
    assert lines[1].startswith("RTX 4090 with 23.1 of 24.0 GiB free, RTX 5070 Ti with 12.5 of 15.9 GiB free, ")
    for quant in QUANTS:
        cells = layers(chosen.outcome, quant)
        assert all(re.fullmatch(r"\d+|-\d+\.\dG", cell) for cell in cells), (quant, cells)
        whole = [int(cell) for cell in cells if cell.isdigit()]
        assert whole == sorted(whole, reverse=True), (quant, "more layers with a larger context")
    # 24.5 GiB fit 36 of VRAM; 148 GiB fit no RAM of a machine that runs tests.
    assert layers(chosen.outcome, "Q2_K")[0] == "48"
    assert any("mmproj-F16.gguf: vision projector" in line for line in chosen.outcome.output.splitlines())


def test_headers_are_fetched_by_range_once(chosen: Run, served: Hub) -> None:
    assert {entry["status"] for entry in chosen.bodies} == {206}
    assert 1 << 20 < sum(entry["bytes_sent"] for entry in chosen.bodies) < 100 << 20
    served.log.clear()
    again = chosen.deployment.run("--data", f"repo={REPO}", "--data", "context=32768", script=CHOOSE)
    assert again.code == 0, str(again)
    assert "their headers are known from an earlier run" in again.output
    assert [entry for entry in served.log.as_json() if entry["origin"] == "cdn"] == []


def test_nothing_stays_on_the_box_and_what_serves_is_left_alone(chosen: Run) -> None:
    box = chosen.deployment
    assert box.shell(f"ls -A {layout.HEADERS} | grep -c choose; true") == "0"
    assert box.shell("systemctl show llamarig-tiny -p MainPID --value") == chosen.server
    assert chat(box.address, "Still there?")


def test_the_line_that_is_pasted_gets_the_plan_that_was_shown(chosen: Run, tmp_path: Path) -> None:
    """The same cards, so auto() has to find as many whole layers. Planning reads the header with its vocabulary."""
    deployment = chosen.deployment.variant(tmp_path / "pasted")
    model = pasted(chosen.outcome)
    deployment.rig["models"] = [model]
    Rig.model_validate(deployment.rig)
    prepared = deployment.run(script="tests/box/deploy_plan_prerequisites.py")
    assert prepared.code == 0, str(prepared)
    planned = deployment.run(script="tasks/plan.py")
    assert planned.code == 0, str(planned)
    shown = re.search(r"(\d+) of 48 layers whole on the GPUs", block(chosen.outcome)[0])
    assert shown is not None
    assert f"{model['name']}: {shown[1]} of 48 layers whole on the GPUs" in planned.output
    deployment.shell(f"rm -rf {layout.HEADERS}/*")


def test_a_box_without_gpus_gets_what_its_ram_holds(variant: Deployment, served: Hub) -> None:
    """Its declaration has a build and no model yet, as tasks/survey.py writes it."""
    variant.rig["models"] = []
    outcome = variant.run("--data", f"repo={SMALL}", "--data", "context=32768", script=CHOOSE)
    assert outcome.code == 0, str(outcome)
    assert block(outcome)[0].startswith(f"{HOST}: {SMALL}: ")
    assert "whether it fits, by context" in block(outcome)[2]
    fits = [line for line in block(outcome) if re.match(r"[*] Q", line)]
    if fits:  # it depends on the machine's RAM
        assert pasted(outcome)["serve"]["placement"] == {"kind": "cpu-only"}
    else:
        assert "no quant fits; the smallest, Q4_K_M, does not fit with 32K: RAM " in block(outcome)[0]


def test_two_repositories_are_answered_together(variant: Deployment, served: Hub) -> None:
    variant.rig["simulated_gpus"] = TWO_CARDS
    options = ("--data", f"repo={SMALL},{REPO}", "--data", "quant=Q4_K_M", "--data", "context=32768")
    outcome = variant.run(*options, script=CHOOSE)
    assert outcome.code == 0, str(outcome)
    lines = block(outcome)
    fit = [line for line in lines if line.startswith("d.model(")]
    assert lines[0] == f"{HOST}: {len(fit)} of 2 repositories fit"
    # What does not fit depends on the machine's RAM; the smaller one is on the cards.
    assert f'repo="{SMALL}"' in fit[0]
    for repo in (SMALL, REPO):
        assert any(line.startswith(f"{repo}: ") for line in lines), str(outcome)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "which repository of the Hub? write --data repo=unsloth/Qwen3-30B-A3B-GGUF"),
        (("repo=acme/misspelt",), "has no repository acme/misspelt, or hides it: check its spelling"),
        (("repo=acme/Gated-GGUF",), "acme/Gated-GGUF is gated: accept its terms on"),
        (("repo=acme/Without-GGUF",), "acme/Without-GGUF has no GGUF file of a model"),
        ((f"repo={SMALL}", "build=cuda"), "--data build=cuda is not a build of this box: name cpu"),
    ],
    ids=("none", "misspelt", "gated", "without", "build"),
)
def test_a_mistake_is_one_message(options: tuple[str, ...], words: str, variant: Deployment, served: Hub) -> None:
    outcome = variant.run(*(word for option in options for word in ("--data", option)), script=CHOOSE)
    assert outcome.code == 1, str(outcome)
    assert words in block(outcome)[0], str(outcome)
    assert "Traceback" not in outcome.output


def test_a_box_without_a_release_uses_that_of_another(variant: Deployment, served: Hub) -> None:
    other = copy.deepcopy(variant.rig)
    other["builds"][0]["cmake"] = {"GGML_OPENMP": "OFF"}  # another release, which nobody has built
    other["simulated_gpus"] = TWO_CARDS
    variant.more_hosts = [("new-box", {"rig": other})]
    options = ("--data", f"repo={SMALL}", "--data", "quant=Q4_K_M", "--data", "context=32768")
    outcome = variant.run(*options, script=CHOOSE)
    assert outcome.code == 0, str(outcome)
    lines = block(outcome, "new-box")
    assert lines[0] == f"new-box: {SMALL}: Q4_K_M with a context of 32K, 48 of 48 layers whole on the GPUs"
    assert any(f" of {HOST} in " in line for line in lines), lines

    alone = variant.run(*options, "--limit", "new-box", script=CHOOSE)
    assert alone.code == 1
    assert "no box of this run has a release of llama.cpp to plan with: build one" in block(alone, "new-box")[0]
    assert "deploy.py --limit BOX" in alone.output
