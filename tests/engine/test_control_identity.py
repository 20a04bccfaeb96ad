"""Two machines of one name are two owners of what runs on a box; two runs of one user are one."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from llamarig.engine import control_identity
from llamarig.engine.control_identity import identity, owner, state_file

from tests.remote.shared.test_admission import admitted


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The state directories of two machines that are both called localhost."""
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    monkeypatch.setenv("LOGNAME", "root")
    return tmp_path / "one", tmp_path / "other"


def test_the_same_name_on_two_machines_is_two_owners(
    machines: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = []
    for machine in machines:
        monkeypatch.setenv("XDG_STATE_HOME", str(machine))
        owners.append(owner())
        assert owner() == owners[-1], "the same in the next run"
    assert all(re.fullmatch(r"root@localhost \([0-9a-f]{8}\)", one) for one in owners)
    assert len(set(owners)) == 2
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    assert admitted(jobs, "build-a", owner=owners[0]) == ""
    assert admitted(jobs, "build-b", owner=owners[0]) == ""
    assert f"by {owners[0]} is running" in admitted(jobs, "fetch", owner=owners[1])


def test_runs_that_begin_at_once_are_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        assert len({run.result() for run in [pool.submit(identity) for _ in range(64)]}) == 1
    assert [path.name for path in state_file().parent.iterdir()] == ["control-machine"]


@pytest.mark.parametrize("damaged", ["", "xyz\n", "\x00" * 20, "0123456789"])
def test_a_damaged_file_is_replaced(damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    state_file().parent.mkdir(parents=True)
    state_file().write_text(damaged)
    assert re.fullmatch(r"[0-9a-f]{8}", found := identity())
    assert state_file().read_text() == f"{found}\n"


def test_without_a_state_directory_the_machine_s_id_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    found = []
    for text in ("4f1c", "77aa"):
        (tmp_path / "machine-id").write_text(text)
        monkeypatch.setattr(control_identity, "_MACHINE_ID", tmp_path / "machine-id")
        found.append(identity())
    assert len(set(found)) == 2
    monkeypatch.setattr(control_identity, "_MACHINE_ID", tmp_path / "none")
    assert identity() == "00000000"
