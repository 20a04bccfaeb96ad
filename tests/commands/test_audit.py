"""An audit reads everything in one command, whatever the box has and its rig declares."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.checks.base import Severity
from llamarig.declare.rig import Rig
from llamarig.engine.item import query
from llamarig.facts.gpus import Gpus
from llamarig.facts.model_store import ModelStore
from llamarig.items.packages import FAMILIES, wanted_packages
from pyinfra.facts.deb import DebPackages
from pyinfra.facts.files import File
from pyinfra.facts.pacman import PacmanPackages
from pyinfra.facts.rpm import RpmPackages

from tests.commands.audited import audited
from tests.items.converged_box import FILE_FOUND, HOST, converged_box, cpu_rig, store_output, write_lock_file
from tests.items.package_managers import MANAGERS
from tests.placement.cuda_rig import rig as cuda_rig
from tests.placement.planned_box import BY_PLAN

CARD = (Path(__file__).parents[1] / "facts/data/gpu/h200_two_idle.txt").read_text()
B: dict[str, Any] = importlib.import_module("group_data.rtx4070").rig
FACTS_OF: dict[str, Any] = {"debian": DebPackages, "arch": PacmanPackages, "fedora": RpmPackages}


def by_path_and_rocm() -> Rig:
    serve = d.serve(port=8080, context=4096)
    build = d.build(name="own", cuda_toolkit="/usr", architectures=("89-real",))
    other = d.build(name="hip", backend="hip", architectures=("gfx1100",))
    models = [d.model(name=name, repo="o/r", quant="Q4_K_M", build=name, serve=serve) for name in ("own", "hip")]
    return Rig.model_validate(d.rig(builds=[build, other], models=models))


RIGS = {
    "CPU only": cpu_rig(),
    "cards and the distribution's driver": Rig.model_validate(
        {**B, "host": {**B["host"], "nvidia_driver": d.nvidia_driver()}}
    ),
    "a toolkit by its path, and ROCm": by_path_and_rocm(),
    "measured placements": cuda_rig({}, {"placement": {"kind": "fit"}}),
    "planned": BY_PLAN,
    "simulated cards": cuda_rig({}, simulated_gpus=[{"name": "RTX 5090", "total_mib": 32607, "free_mib": 32000}]),
    "presets": cpu_rig(presets="cpu"),
}


@pytest.mark.parametrize("is_locked", [True, False], ids=["locked", "not locked"])
@pytest.mark.parametrize("name", RIGS)
def test_an_audit_is_one_command(name: str, is_locked: bool, tmp_path: Path) -> None:
    paths = {"model_lock": str(tmp_path / "lock.json"), "plan_file": str(tmp_path / "plans.json")}
    rig = RIGS[name].model_copy(update=paths)
    if is_locked:
        write_lock_file(rig)
    assert len(audited(rig, {query(Gpus): CARD, query(ModelStore): store_output([])}).commands) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_packages_of_every_family_are_read_in_that_command(family: str, tmp_path: Path) -> None:
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"))
    manager, _, line, _ = MANAGERS[family]
    names = wanted_packages(rig, HOST)[family]
    there = {query(File, path=manager): FILE_FOUND.format(path=manager)}
    complete = audited(rig, {**there, query(FACTS_OF[family]): "\n".join(line.format(name=name) for name in names)})
    incomplete = audited(rig, {**there, query(FACTS_OF[family]): line.format(name="unrelated")})
    assert not [one for one in complete.findings if one.about == "Compilers and tools"]
    (finding,) = [one for one in incomplete.findings if one.about == "Compilers and tools"]
    assert names[0] in finding.found
    assert len(complete.commands) == len(incomplete.commands) == 1


def test_a_box_as_declared_has_no_finding_of_any_item(tmp_path: Path) -> None:
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"), plan_file=str(tmp_path / "plans.json"))
    write_lock_file(rig)
    box = converged_box(rig)
    result = audited(rig, box.outputs, "llama", "deploy", "memory.swappiness")
    assert result.failing == []
    assert len(result.commands) == 1


def test_what_follows_from_a_difference_is_not_reported_with_it(tmp_path: Path) -> None:
    """The model files are missing, so the unit that would serve them is not reported."""
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"), plan_file=str(tmp_path / "plans.json"))
    write_lock_file(rig)
    box = converged_box(rig)
    box.outputs = {**box.outputs, query(ModelStore): f"free\t{1 << 50}"}
    result = audited(rig, box.outputs, "llama", "deploy")
    assert {one.check for one in result.failing} == {"llama.model-files"}
    assert {one.severity for one in result.failing} == {Severity.ERROR}
