"""tasks/choose.py on a box: ten quants of a full-size model on the stand-in Hub, as sparse files with real headers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from llamarig.declare.rig import Rig
from llamarig.render import layout

from tests.box.deployment import HOST, Deployment, Outcome
from tests.box.hub import Hub
from tests.box.rehearse import chat
from tests.box.sparse_models import write_sparse
from tests.placement.model_shapes import QWEN3_30B_A3B, QWEN3_CODER_NEXT, ModelShape

pytestmark = pytest.mark.box

CHOOSE = "tasks/choose.py"
REPO, SMALL = "acme/Qwen3-Coder-Next-GGUF", "acme/Qwen3-30B-A3B-GGUF"
QUANTS = ("IQ2_XS", "Q2_K", "IQ3_S", "Q3_K", "IQ4_XS", "Q4_K_M", "Q5_K", "Q6_K", "Q8_0", "BF16")
TWO_CARDS = [
    {"name": "RTX 4090", "total_mib": 24564, "free_mib": 23671},
    {"name": "RTX 5070 Ti", "total_mib": 16303, "free_mib": 12761},
]


def quants(directory: Path, name: str, shape: ModelShape, of: tuple[str, ...]) -> dict[str, Path]:
    """Path in the repository -> file, of one quant each, the largest in a folder of shards."""
    found = {}
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


@pytest.fixture
def box(variant: Deployment, served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """The converged box. The headers are cached in a directory of the test's own."""
    served.log.clear()
    return variant


def block(outcome: Outcome, name: str = HOST) -> list[str]:
    """The lines of the closing block about a host, the headline first."""
    lines = click.unstyle(outcome.output).splitlines()
    return lines[lines.index(next(line for line in lines if line.strip().startswith(f"{name}: "))) :]


def test_ten_quants_on_two_cards(box: Deployment, served: Hub) -> None:
    box.rig["simulated_gpus"] = TWO_CARDS
    outcome = box.run("--data", f"repo={REPO}", script=CHOOSE)
    print(outcome.output)
    assert outcome.code == 0, str(outcome)
