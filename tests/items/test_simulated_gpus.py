"""Simulated GPUs: one library for each commit that plans with them, compiled on the box."""

from __future__ import annotations

import pytest
from llamarig.engine.item import query
from llamarig.facts.releases import Releases
from llamarig.facts.simulated_gpus import IntactSimulatedGpus
from llamarig.items.releases import release_directories
from llamarig.items.simulated_gpus import SimulatedGpus, simulation_directories

from tests.engine.fake_run import OperationFailedError, converged_commands
from tests.items.converged_box import Box, control_machine, fact_command, release_output
from tests.placement.cuda_rig import rig as cuda_rig

CARDS = [{"name": "RTX 5090", "total_mib": 32607, "free_mib": 32000}]
RIG = cuda_rig({}, {}, simulated_gpus=CARDS)
(DIRECTORY,) = simulation_directories(RIG)


@pytest.fixture
def box() -> Box:
    releases = release_directories(RIG)
    return Box(
        RIG,
        control_machine(RIG),
        {
            query(IntactSimulatedGpus, directories=[DIRECTORY]): f"whole {DIRECTORY}",
            query(Releases, directories=releases): "\n".join(map(release_output, releases)),
        },
    )


def test_a_library_that_is_there(box: Box) -> None:
    assert box.differences(SimulatedGpus()) == []


def test_a_missing_library_is_one_difference_for_all_models_of_a_commit(box: Box) -> None:
    box.outputs[query(IntactSimulatedGpus, directories=[DIRECTORY])] = ""
    (difference,) = box.differences(SimulatedGpus())
    assert difference.by_deploy


def test_a_missing_library_without_a_release_is_refused(box: Box) -> None:
    box.outputs = {}
    (refused,) = box.differences(SimulatedGpus())
    assert not refused.by_deploy
    assert "no complete release on this box to plan with: run deploy.py first" in refused.refusal


def test_without_simulated_cards_nothing_is_read() -> None:
    of = cuda_rig({})
    assert list(SimulatedGpus().queries(of, control_machine(of))) == []
    assert Box(of, control_machine(of)).differences(SimulatedGpus()) == []


def test_a_missing_library_is_compiled_by_a_job() -> None:
    directories = release_directories(RIG)
    release = fact_command(query(Releases, directories=directories))
    name = f"simulate-{RIG.builds[0].source.commit[:12]}"
    replies = {
        "@@llamarig": "",
        release: "\n".join(map(release_output, directories)),
        "echo job=": f'job={name}\nstatus={{"state": "done"}}',
    }
    commands = converged_commands([SimulatedGpus()], RIG, replies)
    (start,) = [command for command in commands if "systemd-run" in command]
    assert "llamarig.remote.build.build_simulated_gpu" in start
    assert name in start


def test_without_a_release_there_is_nothing_to_plan_with(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError):
        converged_commands([SimulatedGpus()], RIG)
    assert "run deploy.py first" in caplog.text
