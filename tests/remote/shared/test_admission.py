"""Jobs of one owner run side by side; others and two of one name are refused in words, or stopped on request."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

import pytest
from llamarig.remote.shared import admission
from llamarig.remote.shared.admission import (
    GATE,
    LOCK,
    JobOwner,
    JobRequest,
    NotAdmittedError,
    admit,
    owner_of,
    running_jobs,
    tell_systemd,
)

ANNA, BEN = "anna@laptop", "ben@desktop"


def request(jobs: Path, name: str, job: str = "{}", owner: str = ANNA, takeover: bool = False) -> Path:
    """A job to start, as engine/jobs.py leaves it on the box."""
    directory = jobs / name
    directory.mkdir(exist_ok=True)
    for file in (jobs / GATE, directory / LOCK):
        file.touch()
    text = json.dumps(JobRequest(job, owner, takeover).to_json())
    (directory / "request-0a1b.json").write_text(text)
    return directory


def admitted(jobs: Path, name: str, **of: object) -> str:
    """Start a job in this process, which holds its lock from then on; empty where it may start, else why not."""
    try:
        admit(request(jobs, name, **of), "0a1b")  # type: ignore[arg-type]  # of strings
    except NotAdmittedError as refused:
        return str(refused) or "runs already"
    return ""


def test_an_admitted_job_has_its_text_and_its_owner(tmp_path: Path) -> None:
    (tmp_path / "fetch").mkdir()
    (tmp_path / "fetch" / "status.json").write_text("of the last run")
    assert admitted(tmp_path, "fetch", job='{"a": 1}') == ""
    assert (tmp_path / "fetch" / "job.json").read_text() == '{"a": 1}'
    assert not (tmp_path / "fetch" / "status.json").exists()
    assert owner_of(tmp_path / "fetch").owner == ANNA
    assert owner_of(tmp_path / "fetch").run == "0a1b"
    assert not (tmp_path / "fetch" / "request-0a1b.json").exists()
    assert running_jobs(tmp_path) == ["fetch"]


@pytest.mark.parametrize("name", ["build-b", "fetch", "switch-m"])
def test_jobs_of_one_owner_run_side_by_side(tmp_path: Path, name: str) -> None:
    assert admitted(tmp_path, "build-a") == ""
    assert admitted(tmp_path, name) == ""


@pytest.mark.parametrize(
    ("running", "other", "words"),
    [
        ("build-a", "build-a", "a build of llama.cpp a by anna@laptop"),
        ("receive-a", "receive-a", "the installation of a release from another box, llama.cpp a by anna@laptop"),
        ("fetch", "fetch", "a download of models by anna@laptop"),
        ("switch-m", "switch-n", "the switch of model m by anna@laptop"),
        ("switch-m", "plan", "the switch of model m by anna@laptop"),
        ("plan", "switch-m", "the planning of models by anna@laptop"),
        *(("prune", job, "the deletion of leftovers by anna@laptop") for job in ("build-a", "fetch", "switch-m")),
        ("fetch", "prune", "a download of models by anna@laptop"),
        ("receive-a", "prune", "the installation of a release from another box, llama.cpp a by anna@laptop"),
    ],
)
def test_other_work_of_one_name_and_a_second_switch_are_refused(
    tmp_path: Path, running: str, other: str, words: str
) -> None:
    assert admitted(tmp_path, running, job="one") == ""
    refused = admitted(tmp_path, other, job="another")
    assert refused.startswith(f"{words} is running on this box since 2"), refused
    assert f"systemctl stop 'llamarig-job-{running}_*'" in refused
    assert "--data takeover=1" in refused
    if running == other:
        assert (tmp_path / running / "job.json").read_text() == "one"


@pytest.mark.parametrize("name", ["build-b", "fetch", "switch-m", "pack-a", "simulate-a"])
def test_a_job_of_another_owner_is_refused(tmp_path: Path, name: str) -> None:
    assert admitted(tmp_path, "build-a") == ""
    assert "a build of llama.cpp a by anna@laptop is running" in admitted(tmp_path, name, owner=BEN)


@pytest.mark.parametrize("owner", [ANNA, BEN])
def test_the_same_job_is_not_started_twice(tmp_path: Path, owner: str) -> None:
    assert admitted(tmp_path, "build-a", job="same") == ""
    assert admitted(tmp_path, "build-a", job="same", owner=owner) == "runs already"
    assert owner_of(tmp_path / "build-a").owner == ANNA


def test_a_job_whose_process_has_ended_is_in_nobodys_way(tmp_path: Path) -> None:
    directory = request(tmp_path, "build-a")
    with (directory / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert admitted(tmp_path, "fetch", owner=BEN) != ""
    assert admitted(tmp_path, "fetch", owner=BEN) == ""


def test_what_is_in_the_way_is_stopped_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`systemctl stop` of a stand-in ends the process that holds the lock: here, the file is closed."""
    directory = request(tmp_path, "switch-m")
    (directory / "owner.json").write_text('{"owner": "anna@laptop", "since": "", "run": "2c3d"}')
    lock = (directory / LOCK).open()
    fcntl.flock(lock, fcntl.LOCK_EX)
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/called\nmv {directory / LOCK} {tmp_path}/ended\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:{os.environ['PATH']}")
    assert admitted(tmp_path, "fetch", owner=BEN, takeover=True) == ""
    assert (tmp_path / "called").read_text() == "stop llamarig-job-switch-m_2c3d.service\n", "not its own unit"
    lock.close()


def test_a_job_that_cannot_be_stopped_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_STOP_WAIT_S", 0.0)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert admitted(tmp_path, "build-a") == ""
    assert "is running on this box" in admitted(tmp_path, "fetch", owner=BEN, takeover=True)


@pytest.mark.parametrize("content", ["", "[]", "not JSON", '{"owner": 3}'])
def test_a_damaged_owner_is_an_unknown_one(tmp_path: Path, content: str) -> None:
    assert admitted(tmp_path, "build-a") == ""
    (tmp_path / "build-a" / "owner.json").write_text(content)
    assert owner_of(tmp_path / "build-a") == JobOwner("", "", "")
    assert "by another run is running on this box since an unknown time" in admitted(tmp_path, "fetch", owner=BEN)


def test_systemd_is_told_once_the_job_is_admitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        tell_systemd()
        assert systemd.recv(100) == b"READY=1"
    assert "NOTIFY_SOCKET" not in os.environ, "what the job starts would be taken for it"
    tell_systemd()
