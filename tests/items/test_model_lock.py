"""The model lock: a missing entry is resolved by a deploy, a file that cannot be read is its owner's to restore."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Seen
from llamarig.items.model_lock import LockedModels
from llamarig.records.model_lock import lock_key, read_model_lock

from tests.box.fetch_run import random_file
from tests.box.hub import Hub
from tests.engine.fake_run import OperationFailedError, converged_commands
from tests.items.converged_box import LOCKED, cpu_rig, write_lock_file


def differences(rig: Rig, **here: Any) -> list[Any]:
    return LockedModels().differences(rig, Seen("box", ControlMachine(**here), {}))


def test_a_locked_model_is_as_declared() -> None:
    assert differences(cpu_rig(), locked=[LOCKED]) == []


def test_a_missing_entry_is_made_by_a_deploy() -> None:
    (difference,) = differences(cpu_rig())
    assert difference.by_deploy


def test_a_missing_entry_and_no_token_to_get_it() -> None:
    refused, missing = differences(cpu_rig(), hub_token_problem="export HF_TOKEN=hf_...")
    assert (refused.by_deploy, refused.refusal) == (False, "export HF_TOKEN=hf_...")
    assert (missing.found, missing.remedy) == ("an entry is missing", "provide the Hub token, then run deploy.py")


def test_a_file_that_cannot_be_read_is_its_owners_to_restore() -> None:
    (difference,) = differences(cpu_rig(), lock_problem="lock.json is not a valid model lock: restore it from git")
    assert not difference.by_deploy
    assert difference.refusal == "lock.json is not a valid model lock: restore it from git"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub") as hub:
        hub.add_repo("o/r", {"m-Q6.gguf": random_file(tmp_path / "m.gguf", 1000, 1)})
        yield hub


def test_a_model_is_resolved_once_and_then_never_again(served: Hub, tmp_path: Path) -> None:
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"), hub=d.hub(endpoint=served.endpoint))
    assert converged_commands([LockedModels()], rig) == [], "no fact of the box is read"
    locked = read_model_lock(rig.model_lock).models[lock_key(rig.models[0])]
    assert [file.path for file in locked.files] == ["m-Q6.gguf"]
    served.log.clear()
    converged_commands([LockedModels()], rig)
    assert served.log.as_json() == []


def test_the_entries_of_other_models_stay(served: Hub, tmp_path: Path) -> None:
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"), hub=d.hub(endpoint=served.endpoint))
    other = rig.models[0].model_copy(update={"repo": "o/another"})
    write_lock_file(rig.model_copy(update={"models": (other,)}))
    converged_commands([LockedModels()], rig)
    assert read_model_lock(rig.model_lock).models.keys() == {lock_key(rig.models[0]), lock_key(other)}


def test_a_model_that_the_hub_does_not_have_is_refused(
    served: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"), hub=d.hub(endpoint=served.endpoint))
    missing = rig.model_copy(update={"models": (rig.models[0].model_copy(update={"quant": "Q8"}),)})
    with pytest.raises(OperationFailedError):
        converged_commands([LockedModels()], missing)
    assert "has no quant Q8" in caplog.text
