"""What `llamarig adopt` prints for command lines, scripts, units and files of all eras."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llamarig.declare.build import Build
from llamarig.declare.model import Model
from llamarig.declare.placement import CpuMoe, Fit, Layers
from llamarig.declare.rig import Rig

from tests.adopt.golden import CASES, SEPARATOR, golden, printed


def declared(text: str) -> list[Model]:
    """The models of printed Python."""
    names: dict[str, Any] = {}
    exec(compile(text.partition(SEPARATOR)[0], "printed", "exec"), names)
    models: list[Model] = names["models"]
    return models


def owner(name: str) -> Model:
    (model,) = declared(printed(next(case for case in CASES if case.stem == f"owner-{name}")))
    return model


def test_there_are_cases_of_all_eras() -> None:
    assert len(CASES) >= 40
    assert {case.name.partition("-")[0] for case in CASES} == {"owner", "2023", "2024", "2025", "2026"}
    assert {case.suffix for case in CASES} >= {".sh", ".bat", ".ps1", ".service", ".yml", ".yaml", ".ini"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_declaration_and_what_became_of_each_flag(case: Path) -> None:
    assert printed(case) == golden(case).read_text()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_models_are_those_of_one_valid_rig(case: Path) -> None:
    models = declared(golden(case).read_text())
    builds = {
        "cuda": Build(name="cuda", cuda_toolkit="13.5", tls=True),
        "vulkan": Build(name="vulkan", backend="vulkan"),
        "hip": Build(name="hip", backend="hip", architectures=("gfx1100",)),
    }
    rig = Rig(builds=tuple(builds[name] for name in sorted({model.build for model in models})), models=tuple(models))
    assert Rig.model_validate(rig.to_json()) == rig


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_python_is_formatted(case: Path) -> None:
    text = golden(case).read_text().partition(SEPARATOR)[0]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--no-cache", "--line-length", "120", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == text


def test_the_owners_placements() -> None:
    assert [owner(name).serve.placement for name in ("a-qwen3-coder", "a-qwen3-coder-q5", "a-gpt-oss")] == [
        Layers(gpu=(13, 6), split=(34, 15)),
        Layers(gpu=(15, 7), split=(33, 16)),
        Layers(gpu=(12, 4), split=(28, 9)),
    ]
    assert owner("b-qwen3-coder-mxfp4").serve.placement == Fit(target_mib=(128,), minimum_context=131072)
    assert owner("c-qwen35-a3b").serve.placement == CpuMoe(layers=24)
    assert owner("c-qwen35-a3b-q8").serve.placement == Fit()
    assert owner("d-qwen3-coder-ud-q4").serve.placement == Layers(gpu=(12,), split=(49,))


def test_the_owner_of_box_b_gets_everything_that_he_set() -> None:
    model = owner("b-qwen3-coder-mxfp4")
    serve = model.serve
    assert (serve.alias, serve.host, serve.port) == ("unsloth/Qwen3-Coder-Next", "0.0.0.0", 8001)
    assert (serve.load_mode, serve.cpu_affinity, serve.priority, serve.warmup) == ("mlock", "0-11", 2, False)
    assert (serve.threads, serve.threads_batch, serve.environment) == (10, 12, {"GGML_CUDA_GRAPH_OPT": "1"})
    assert serve.sampling.model_dump(exclude_none=True, exclude_defaults=True) == {
        "temperature": 1.0,
        "top_p": 0.95,
        "min_p": 0.01,
        "top_k": 40,
        "seed": 3407,
    }
    notes = printed(next(case for case in CASES if case.stem == "owner-b-qwen3-coder-mxfp4"))
    assert "LLAMA_SET_ROWS=1: dropped" in notes
    assert '`--no-mmap --mlock` is load_mode = "mlock" now' in notes


def test_the_rule_of_the_owner_of_box_d_gets_its_verdict() -> None:
    text = printed(next(case for case in CASES if case.stem == "owner-d-qwen3-coder-ud-q4"))
    assert "lint of -ot as it was: override-misses-numbers" in text
    assert "leaves 10-11 out" in text
