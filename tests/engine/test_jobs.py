"""Jobs on the box: how they are started, kept secret and sandboxed, watched to their end, and reported."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llamarig.engine.item import Commands
from llamarig.engine.jobs import await_jobs, is_running, job_text, start_job
from llamarig.engine.progress import duration, progress_line
from llamarig.facts.jobs import Job, Jobs
from llamarig.remote.shared.jobs import JobStatus, PackJob
from llamarig.render import layout
from pyinfra.api.operation import operation

from tests.engine.fake_run import OperationFailedError, commands_of

JOB = PackJob(release="/opt/r", archive="/var/a.tar.gz")


@operation()
def starts(**options: Any) -> Commands:
    yield from start_job("pack-x", "build.pack_release", JOB, **options)


@operation()
def awaits(labels: dict[str, str], **options: Any) -> Commands:
    yield await_jobs(labels, **options)


def started(**options: Any) -> tuple[list[str], str]:
    """All commands of a job's start, and the last one, which starts its unit."""
    commands = commands_of((starts, {"takeover": False, **options}))
    return commands, commands[-1]


def test_a_job_is_a_sandboxed_unit_of_a_name_of_its_own() -> None:
    _, first = started(properties=["ReadWritePaths=/var/a"])
    _, second = started()
    for words in (
        "systemd-run",
        "ProtectSystem=strict",
        "ReadWritePaths=/var/a",
        f"ReadWritePaths={layout.JOBS}/pack-x",
    ):
        assert words in first
    assert f"{layout.PYTHON} -B -m llamarig.remote.build.pack_release {layout.JOBS}/pack-x" in first
    # systemd may still know the unit of the last run.
    assert first.split("--unit=")[1].split()[0] != second.split("--unit=")[1].split()[0]


def test_no_job_is_stopped_by_the_start_of_another() -> None:
    """The job itself stops what is in its way, where it is asked to."""
    commands, _ = started(takeover=True)
    assert not [command for command in commands if "systemctl stop" in command]


@pytest.mark.parametrize(
    ("answer", "code", "shown"),
    [(None, 1, "systemd complains"), ("ben builds", 1, "ben builds"), ("", 0, "")],
    ids=["not started", "refused", "runs already"],
)
def test_the_start_fails_with_the_answer_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None, code: int, shown: str
) -> None:
    """The command that starts a job, run on this machine with a stand-in for systemd-run."""
    monkeypatch.setattr(layout, "JOBS", str(tmp_path))
    monkeypatch.setattr(layout, "SECRETS", str(tmp_path / "secrets"))
    directory = tmp_path / "pack-x"
    directory.mkdir()
    _, start = started(secret=("token", "x"))
    (run,) = re.findall(r"--unit=llamarig-job-pack-x_(\w+)", start)
    (directory / f"request-{run}.json").touch()
    systemd_run = tmp_path / "systemd-run"
    says = "" if answer is None else f"printf '%s' '{answer}' >{directory}/answer-{run}\n"
    systemd_run.write_text(f"#!/bin/sh\n{says}echo systemd complains >&2\nexit 1\n")
    systemd_run.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", start], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (code, shown)
    assert list(directory.iterdir()) == []


def test_a_secret_is_in_no_command_and_is_removed_once_the_job_runs() -> None:
    commands, start = started(secret=("hub-token", "hf_secret"))
    assert not [command for command in commands if "hf_secret" in command]
    (path,) = re.findall(r"LoadCredential=hub-token:(\S+?)'? ", start)
    assert path.startswith(f"{layout.SECRETS}/pack-x.")
    assert f"{path}; exit $started" in start


def test_a_switch_is_not_sandboxed() -> None:
    _, start = started(sandboxed=False)
    assert "ProtectSystem" not in start


def test_the_same_work_is_the_same_text() -> None:
    assert job_text(JOB) == job_text(PackJob(archive="/var/a.tar.gz", release="/opt/r"))
    output = [f"job=pack-x\nactive=active\nsha256={_sha256(job_text(JOB))}", "job=other\nactive=inactive\nsha256=0"]
    jobs = Jobs().process("\n".join(output).splitlines())
    assert is_running(jobs["pack-x"], JOB)
    assert not is_running(jobs["other"], JOB)
    assert not is_running(jobs["pack-x"], PackJob(release="/opt/other", archive="/var/a.tar.gz"))
    assert not is_running(None, JOB)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def replies(**statuses: dict[str, Any]) -> dict[str, str]:
    lines = [f"job={name}\nstatus={json.dumps(status)}" for name, status in statuses.items()]
    return {"echo job=": "\n".join(lines)}


def test_jobs_are_watched_until_each_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    both = replies(a={"state": "done", "message": "made"}, b={"state": "done"})
    commands_of((awaits, {"labels": {"a": "build", "b": "models"}}), replies=both)
    assert "build: made" in caplog.text
    assert "models: done" in caplog.text


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("a", {"state": "failed", "message": "no compiler", "lines": ["cc: not found"]}, "build: no compiler"),
        ("a", {"state": "stopped"}, "build: stopped"),
        ("a", {"state": "running", "step": "compiling"}, "its last step: compiling"),
        ("a", {}, "build: was interrupted; run deploy.py again"),
        ("switch-m", {}, "the previous server may be stopped; run deploy.py again now"),
    ],
)
def test_a_job_that_did_not_succeed_fails_the_host_with_its_own_words(
    name: str, status: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OperationFailedError):
        commands_of((awaits, {"labels": {name: "build"}}), replies=replies(**{name: status}))
    assert message in caplog.text
    for line in status.get("lines", []):
        assert line in caplog.text


@pytest.mark.parametrize("output", ["", "job=other\nactive=active"])
def test_waiting_for_a_job_that_the_box_never_names_ends(output: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError) as failed:
        commands_of((awaits, {"labels": {"a": "build"}, "poll_s": 0}), replies={"echo job=": output})
    assert len(failed.value.commands) == 20
    assert "[@fake] build: this box has reported nothing about the job 20 times in a row" in caplog.text
    assert f"`systemctl status 'llamarig-job-a_*'` and {layout.JOBS}/a there, then run deploy.py again" in caplog.text


class InTurn(list[Any]):
    """A reply that is another one each time."""

    def __iter__(self) -> Iterator[str]:
        yield from self.pop(0)


def test_a_job_that_the_box_names_now_and_then_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    silence: list[list[str]] = [[]] * 19
    outputs = InTurn([*silence, ["job=a", "active=active"], *silence, ["job=a", 'status={"state": "done"}']])
    commands_of((awaits, {"labels": {"a": "build"}, "poll_s": 0}), replies={"echo job=": outputs})
    assert outputs == []
    assert "build: done" in caplog.text


def test_a_job_that_the_box_reports_nothing_of_is_not_running() -> None:
    assert not is_running(Job(), JOB)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ({"step": "unpacking"}, "unpacking"),
        ({"step": "compiling", "done": 5, "total": 20, "unit": "objects"}, "compiling: 5/20 objects (25 %)"),
        (
            {"step": "x", "done": 5 << 30, "total": 10 << 30, "unit": "bytes", "step_started": 0, "now": 100},
            "x: 5.00 of 10.00 GiB (50 %), 53.7 MB/s, 2 min left",
        ),
        # What was there before the step began says nothing of its rate.
        (
            {"step": "x", "done": 10, "done_at_start": 10, "total": 20, "unit": "objects", "now": 9},
            "x: 10/20 objects (50 %)",
        ),
    ],
)
def test_progress_is_one_line(status: dict[str, Any], line: str) -> None:
    assert progress_line(JobStatus.from_stored(status)) == line


@pytest.mark.parametrize(("seconds", "shown"), [(5, "5 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations_are_small_numbers(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
