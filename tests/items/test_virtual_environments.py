"""Python environments and CUDA toolkits from PyPI: every distribution of the lock, installed anew where one differs."""

from __future__ import annotations

from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.item import Query, query
from llamarig.facts.virtual_environments import VirtualEnvironment
from llamarig.items.cuda_toolkits import CudaToolkits, layout_command, versions
from llamarig.items.virtual_environments import HubClient
from llamarig.render import layout
from pyinfra.facts.server import Command

from tests.engine.fake_run import converged_commands
from tests.items.converged_box import Box, control_machine, converged_box, cpu_rig, environment_output, fact_command

HUB: Query[Any] = query(VirtualEnvironment, path=layout.HUB_VENV)


@pytest.fixture
def box() -> Box:
    return converged_box(cpu_rig())


def test_an_environment_as_locked_has_no_difference(box: Box) -> None:
    assert box.differences(HubClient()) == []


@pytest.mark.parametrize("change", ["missing", "another lock", "no environment"])
def test_an_environment_that_differs_is_installed_anew(box: Box, change: str) -> None:
    lock, *distributions = box.outputs[HUB].splitlines()
    box.outputs[HUB] = {
        "missing": "\n".join([lock, *distributions[1:]]),
        "another lock": "\n".join([f"{'0' * 64}  -", *distributions]),
        "no environment": "",
    }[change]
    (difference,) = box.differences(HubClient())
    assert difference.what == layout.HUB_VENV
    commands = converged_commands([HubClient()], box.rig, {fact_command(HUB): box.outputs[HUB]})
    (install,) = [command for command in commands if "pip" in command]
    assert "--require-hashes" in install
    # Named last, so that an interrupted installation is not taken for a complete one.
    assert install.rindex("requirements.lock") > install.rindex("pip")


def cuda_rig(*toolkits: str) -> Rig:
    serve = d.serve(port=8080, context=4096)
    builds = [
        d.build(name=f"b{number}", architectures=("89-real",), cuda_toolkit=toolkit)
        for number, toolkit in enumerate(toolkits)
    ]
    models = [
        d.model(name=f"m{number}", repo="o/r", quant="Q6", build=build.name, serve=serve)
        for number, build in enumerate(builds)
    ]
    return Rig.model_validate(d.rig(builds=builds, models=models))


def test_toolkits_from_pypi_lie_side_by_side_and_those_by_path_are_their_owners() -> None:
    assert versions(cuda_rig("13.0", "13.4", "13.0", "/usr")) == ["13.0", "13.4"]


def cuda_box(*, is_linked: bool = True, is_installed: bool = True) -> Box:
    rig = cuda_rig("13.0", "13.4")
    here = control_machine(rig)
    box = Box(rig, here)
    for version in versions(rig):
        lock = here.requirements[f"cuda-{version}-requirements.txt"]
        installed = is_installed or version != "13.4"
        linked = is_linked or version != "13.4"
        environment = environment_output(lock) if installed else ""
        box.outputs[query(VirtualEnvironment, path=f"{layout.CUDA}/{version}")] = environment
        box.outputs[query(Command, command=layout_command(version))] = "linked" if linked else "no"
    return box


def test_toolkits_as_locked_have_no_difference() -> None:
    assert cuda_box().differences(CudaToolkits()) == []


def test_a_missing_toolkit_is_installed_and_laid_out_and_the_other_stays() -> None:
    box = cuda_box(is_linked=False, is_installed=False)
    (difference,) = box.differences(CudaToolkits())
    assert difference.what == f"{layout.CUDA}/13.4"
    replies = {"@@llamarig": "", **{fact_command(fact_query): text for fact_query, text in box.outputs.items()}}
    commands = converged_commands([CudaToolkits()], box.rig, replies)
    changes = [command for command in commands if command not in replies]
    assert not [command for command in changes if f"{layout.CUDA}/13.0" in command and "@@llamarig" not in command]
    assert [command for command in changes if "pip" in command and f"{layout.CUDA}/13.4" in command]
    assert [command for command in changes if "cuMemCreate" in command]


def test_an_incomplete_layout_is_made_without_installing_anything() -> None:
    box = cuda_box(is_linked=False)
    (difference,) = box.differences(CudaToolkits())
    assert difference.what == f"{layout.CUDA}/13.4/root"
    replies = {"@@llamarig": "", **{fact_command(fact_query): text for fact_query, text in box.outputs.items()}}
    commands = converged_commands([CudaToolkits()], box.rig, replies)
    assert not [command for command in commands if "pip" in command and "install" in command]
    assert [command for command in commands if "cuMemCreate" in command]
