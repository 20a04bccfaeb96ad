"""Builds and downloads run side by side on the box; one item waits for both and compares once more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from llamarig.declare.rig import Rig
from llamarig.engine.item import query
from llamarig.facts.model_store import ModelStore
from llamarig.facts.releases import Releases
from llamarig.items.finished_work import FinishedWork
from llamarig.items.model_files import FETCH
from llamarig.items.releases import build_job_name, release_directories

from tests.engine.fake_run import OperationFailedError, converged_commands
from tests.items.converged_box import Box, converged_box, cpu_rig, fact_command, write_lock_file


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"), plan_file=str(tmp_path / "plans.json"))
    write_lock_file(rig)
    return rig


@pytest.fixture
def box(rig: Rig) -> Box:
    return converged_box(rig)


def commands(box: Box, **jobs: str) -> list[str]:
    """Commands of a deploy of this item on a box whose jobs have these states."""
    lines = []
    for name, state in jobs.items():
        job = FETCH if name == "fetch" else build_job_name(box.rig.builds[0], box.rig)
        status = {"state": state, "message": f"{name} {state}", "lines": ["why"]}
        lines += [f"job={job}", f"status={json.dumps(status)}"]
    outputs = {fact_command(fact_query): text for fact_query, text in box.outputs.items()}
    return converged_commands([FinishedWork()], box.rig, {"@@llamarig": "", "echo job=": "\n".join(lines), **outputs})


def test_a_converged_box_waits_for_no_job(box: Box) -> None:
    assert box.differences(FinishedWork()) == []
    assert not [command for command in commands(box) if "echo job=" in command]


def test_both_jobs_are_watched_together(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    box.outputs[query(ModelStore)] = "free\t1"
    box.outputs[query(Releases, directories=release_directories(box.rig))] = ""
    with pytest.raises(OperationFailedError) as failed:
        commands(box, fetch="done", build="done")
    watched = [command for command in failed.value.commands if "echo job=" in command]
    assert len(watched) == 1
    assert f"echo job={FETCH}" in watched[0]
    assert "echo job=build-" in watched[0]
    assert "models: fetch done" in caplog.text
    assert "build cpu: build done" in caplog.text
    # The jobs have ended, but the box has not changed.
    assert "the builds and downloads have ended, but files are still missing: run deploy.py again" in caplog.text


def test_a_failed_job_fails_the_deploy_and_the_other_job_continues(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    box.outputs[query(ModelStore)] = "free\t1"
    box.outputs[query(Releases, directories=release_directories(box.rig))] = ""
    with pytest.raises(OperationFailedError):
        commands(box, build="failed", fetch="running")
    assert "build cpu: build failed" in caplog.text
    assert "    why" in caplog.text
    assert "models continues on the box; the next deploy waits for it" in caplog.text
