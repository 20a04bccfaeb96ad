"""An audit asks deploy's own operations; where one of them refuses, that is what the owner hears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.command import StringCommand
from pyinfra.api.operation import operation

from tasks.operations import Commands, audit, closes, long_work
from tasks.operations.audit_run import RUN
from tasks.operations.lock_file import write_lock
from tasks.operations.refuse import refuse
from tasks.planning.checks.base import Finding
from tasks.planning.checks.llama_cpp import ModelFiles, ReleasesWhole, UnitsAsDeclared
from tasks.spec.model_lock import ModelLock, lock_key
from tasks.spec.rig import Rig
from tests.operations.fake_run import run_of
from tests.planning.test_checks import LARGE, R

HOST = "@fake"
NEVER = {"_if": lambda: False}


pytestmark = pytest.mark.usefixtures("audit_of_its_own")


def audited(of: Rig, *before: tuple[Any, dict[str, Any]], only: tuple[str, ...]) -> list[Finding]:
    look = (audit.box_looked_at, {"name": "Audit: looking", "rig": of, "options": audit.Options(only=only)})
    with run_of(*((function, {**arguments, **NEVER}) for function, arguments in before), look):
        return RUN.found[HOST]


def test_model_files_for_which_there_is_no_room(tmp_path: Path) -> None:
    lock = tmp_path / "models.lock.json"
    write_lock(str(lock), ModelLock(models={lock_key(R.models[0]): LARGE}))
    of = R.model_copy(update={"model_lock": str(lock)})
    asked = (long_work.downloads_started, {"name": "Models | Downloads", "rig": of})
    (finding,) = audited(of, asked, only=("llama.model-files", "deploy"))
    assert finding.check == "llama.model-files"
    assert finding.remedy.startswith("deploy.py refuses: ")
    assert "GiB" in finding.remedy
    assert not finding.by_deploy


@operation()
@closes(ReleasesWhole)
def builds() -> Commands:
    yield StringCommand("true")


@operation()
@closes(UnitsAsDeclared, ReleasesWhole)
def serves() -> Commands:
    yield from refuse("there is no release")


@operation()
@closes(ModelFiles)
def fetches() -> Commands:
    yield from refuse("no room", ["40 GiB are missing"])


def test_a_refusal_that_an_earlier_operation_would_mend_is_none() -> None:
    asked = ((builds, {"name": "builds"}), (serves, {"name": "serves"}), (fetches, {"name": "fetches"}))
    found = {item.check: item for item in audited(R, *asked, only=("llama.release", "deploy"))}
    assert (found["llama.release"].remedy, found["llama.release"].by_deploy) == ("run deploy.py", True)
    # The files' check has nothing to tell of a box without a lock, so the operation speaks for itself.
    assert found["deploy.operation"].about == "fetches"
    assert found["deploy.operation"].found == "deploy.py refuses: no room; 40 GiB are missing"
    alone = audited(R, *asked[1:], only=("llama.release", "deploy"))
    assert [item.remedy for item in alone if item.check == "llama.release"] == [
        "deploy.py refuses: there is no release"
    ]
