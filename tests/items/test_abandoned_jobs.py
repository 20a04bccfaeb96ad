"""A build or download that nothing declared needs is named by the next run, and left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from llamarig.engine.item import query
from llamarig.facts.jobs import RunningJobs
from llamarig.facts.model_store import ModelStore
from llamarig.items.abandoned_jobs import NoAbandonedJobs
from llamarig.items.model_files import FETCH
from llamarig.items.releases import build_job_name

from tests.items.converged_box import Box, converged_box, cpu_rig, store_output

ANNA = 'Sat 2026-11-21 20:04:47 UTC\t{}\t{"owner": "anna@laptop"}'


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return converged_box(cpu_rig(model_lock=str(tmp_path / "lock.json")))


def found(box: Box, *names: str) -> list[str]:
    box.outputs[query(RunningJobs)] = "\n".join(f"{name}\t{ANNA}" for name in names)
    differences = box.differences(NoAbandonedJobs())
    assert not any(one.by_deploy or one.stops_deploy for one in differences)
    return list(map(str, differences))


def test_a_build_of_another_commit_is_named_with_its_owner_and_how_to_stop_it(box: Box) -> None:
    own = build_job_name(box.rig.builds[0], box.rig)
    assert found(box, own, "build-4df29be00000-a6a0c45d") == [
        "a build of llama.cpp 4df29be00000-a6a0c45d runs by anna@laptop since Sat 2026-11-21 20:04:47 UTC, and nothing "
        "declared needs it: beside this run, expected no such job; let it end, or on the box: systemctl stop "
        "'llamarig-job-build-4df29be00000-a6a0c45d_*'"
    ]


def test_a_download_is_abandoned_once_all_declared_files_are_there(box: Box) -> None:
    assert len(found(box, FETCH)) == 1
    box.outputs[query(ModelStore)] = store_output([])
    assert found(box, FETCH) == []


def test_switches_and_plannings_are_reported_by_what_they_are_in_the_way_of(box: Box) -> None:
    assert found(box, "switch-m", "plan") == []
