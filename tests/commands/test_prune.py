"""tasks/prune.py lists unused files and deletes only those that are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from llamarig.checks.leftovers import Leftover
from llamarig.commands import prune
from llamarig.commands.prune import leftovers_deleted
from llamarig.declare.rig import Rig
from llamarig.render import layout

from tests.engine.fake_run import OperationFailedError, commands_of
from tests.items.converged_box import LOCKED, cpu_rig, release_output, store_output, write_lock_file

OLD = f"{'1' * 40}-00000000"
NAME = f"releases/{OLD}"
OLD_PATH = f"{layout.RELEASES}/{OLD}"
CUDA = f"{layout.CUDA}/12.9"
DELETES = "rm -rf -- "
RESERVES = "llamarig.remote.plan.reserve_box"


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
    return deletions(commands_of(call, replies=replies))


def deletions(commands: list[str]) -> list[str]:
    return [found[1] for command in commands if (found := re.search(rf"; ({DELETES}.+); r=", command))]


def test_without_a_name_nothing_is_deleted(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    assert deleted(rig) == []
    assert OLD in caplog.text


def test_named_leftovers_are_deleted(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    assert deleted(rig, NAME) == [f"rm -rf -- {OLD_PATH}"]
    assert f"deleting {NAME}, 1.00 GiB" in caplog.text


def test_a_leftover_that_a_unit_uses_is_not_deleted(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    line = f"/etc/systemd/system/mine.service\tExecStart={OLD_PATH}/bin/llama-server"
    with pytest.raises(OperationFailedError):
        deleted(rig, NAME, references=line)
    assert "mine.service" in caplog.text


@pytest.mark.parametrize("record", [".json", ".previous.json", ".replaced"])
def test_the_release_of_a_start_record_is_not_deleted(record: str, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    text = f'"text": "ExecStart={OLD_PATH}/bin/llama-server\\n",'
    name = f"{layout.unit_name(rig.models[0].name)}{record}"
    with pytest.raises(OperationFailedError):
        deleted(rig, NAME, references=f"{layout.PROOFS}/{name}\t{text}")
    assert f"{NAME} cannot be deleted: start record {name} refers to it" in caplog.text


def test_a_start_record_of_a_removed_unit_holds_nothing(rig: Rig) -> None:
    record = f'{layout.PROOFS}/llamarig-gone.service.json\t"text": "ExecStart={OLD_PATH}/bin/llama-server",'
    assert deleted(rig, NAME, references=record) == [f"rm -rf -- {OLD_PATH}"]


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


def prepared_and_run(rig: Rig, replies: dict[str, object]) -> list[str]:
    call = (leftovers_deleted, {"name": "Prune", "rig": rig, "names": (NAME,), "keep": 0})
    replies = {"du --summarize": f"{1 << 30}\t100\t{OLD_PATH}", "manifest.json": release_output(OLD_PATH), **replies}
    try:
        return commands_of(call, replies=replies)
    except OperationFailedError as error:
        return error.commands


def test_leftovers_are_deleted_while_no_job_can_begin_to_use_them(rig: Rig) -> None:
    commands = prepared_and_run(rig, {})
    (start,) = (number for number, command in enumerate(commands) if RESERVES in command and "systemd-run" in command)
    (deletes,) = (number for number, command in enumerate(commands) if deletions([command]))
    read_again = [number for number, command in enumerate(commands) if "du --summarize" in command][-1]
    assert start < read_again < deletes
    assert commands[-1].startswith("systemctl stop 'llamarig-job-prune_*'; rm -f ")


def test_nothing_is_deleted_while_a_job_runs(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    refusal = {"success": False, "stderr": "a build of llama.cpp x by anna@laptop is running on this box since noon"}
    commands = prepared_and_run(rig, {RESERVES: refusal})
    assert deletions(commands) == []
    assert "a build of llama.cpp x by anna@laptop is running" in caplog.text


def test_what_a_job_has_begun_to_use_is_not_deleted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between the list and the deletion: a deploy of another commit has ended, say."""
    lists = [Leftover(NAME, (OLD_PATH,), 1, "not used", held) for held in ("", "", "llamarig-m.service refers to it")]
    monkeypatch.setattr(prune, "_leftovers", lambda *_: [lists.pop(0)])
    commands = prepared_and_run(rig, {})
    assert deletions(commands) == []
    assert "cannot be deleted: llamarig-m.service refers to it; nothing was deleted" in caplog.text
    assert lists == []
