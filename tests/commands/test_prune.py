"""tasks/prune.py lists unused files and deletes only those that are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from llamarig.commands.prune import leftovers_deleted
from llamarig.declare.rig import Rig
from llamarig.render import layout

from tests.engine.fake_run import OperationFailedError, commands_of
from tests.items.converged_box import LOCKED, cpu_rig, release_output, store_output, write_lock_file

OLD = f"{'1' * 40}-00000000"
NAME = f"releases/{OLD}"
OLD_PATH = f"{layout.RELEASES}/{OLD}"
CUDA = f"{layout.CUDA}/12.9"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = cpu_rig(model_lock=str(tmp_path / "lock.json"))
    write_lock_file(rig)
    return rig


def deleted(rig: Rig, *names: str, keep: int = 0, references: str = "") -> list[str]:
    """Commands that delete something from a box with an old release and an old toolkit.

    :param references: lines of unit files that name one of them
    """
    replies = {
        "du --summarize": f"{1 << 30}\t100\t{OLD_PATH}\n{2 << 30}\t100\t{CUDA}",
        "manifest.json": release_output(OLD_PATH),
        f"find -H {layout.MODELS} -type f": store_output([LOCKED]),
        "grep -RHZ": references,
    }
    call = (leftovers_deleted, {"name": "Prune", "rig": rig, "names": names, "keep": keep})
    return [command for command in commands_of(call, replies=replies) if command.startswith("rm -rf")]


def test_without_a_name_nothing_is_deleted(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    assert deleted(rig) == []
    assert OLD in caplog.text
    assert "3.00 GiB can be freed with --data delete=NAME[,NAME]" in caplog.text


def test_named_leftovers_are_deleted(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    assert deleted(rig, NAME) == [f"rm -rf -- {OLD_PATH}"]
    assert f"deleting {NAME}, 1.00 GiB" in caplog.text


def test_a_leftover_that_a_unit_uses_is_not_deleted(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    line = f"/etc/systemd/system/mine.service\tExecStart={OLD_PATH}/bin/llama-server"
    with pytest.raises(OperationFailedError):
        deleted(rig, NAME, references=line)
    assert "mine.service" in caplog.text


def test_the_newest_releases_are_kept(rig: Rig) -> None:
    with pytest.raises(OperationFailedError):
        deleted(rig, NAME, keep=1)


def test_a_name_that_is_no_leftover_is_refused(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError):
        deleted(rig, "nothing")
    assert "nothing" in caplog.text


def test_without_a_lock_entry_no_model_file_is_taken_for_a_leftover(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OperationFailedError):
        deleted(cpu_rig(model_lock=str(tmp_path / "lock.json")))
    assert "lacks a declared model: run deploy.py" in caplog.text
