"""The status of a job with special characters, read with the fact's command."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from llamarig.facts.jobs import Jobs, RunningJobs
from llamarig.remote.shared.jobs import JobStatus
from llamarig.render import layout


@pytest.mark.parametrize(
    "message", ['HTTP 400: {"error":\n"exceeds"}', "a tab\tand \\n, \\c, \\x41", "$HOME %s `id` 'q'"]
)
def test_a_message_survives_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    monkeypatch.setattr(layout, "JOBS", str(tmp_path))
    status = {"state": "failed", "message": message, "lines": [message]}
    (tmp_path / "switch").mkdir()
    (tmp_path / "switch" / "status.json").write_text(json.dumps(status))
    (tmp_path / "systemctl").symlink_to("/bin/true")  # as where no unit matches
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = Jobs().command(["switch"])
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert Jobs().process(done.stdout.splitlines())["switch"].status == JobStatus.from_json(status)


UNITS = """\
llamarig-job-switch-m_0a1b.service loaded failed failed [systemd-run] /opt/llamarig/bin/python3 -B -m llamarig.remote
llamarig-job-switch-m_2c3d.service loaded active running [systemd-run] /opt/llamarig/bin/python3 -B -m llamarig.remote
"""


@pytest.mark.parametrize(("units", "expected"), [(UNITS, {"switch-m": True}), ("", {"switch-m": False}), (None, {})])
def test_a_job_has_not_ended_where_systemd_does_not_answer(
    tmp_path: Path, units: str | None, expected: dict[str, bool]
) -> None:
    """Regression: a switch was taken for interrupted, because systemd took over 25 s to reload."""
    # As systemctl does with a pattern: a line for each unit, none where none matches, and a failure without an answer.
    answer = "echo 'Failed to list units: Connection timed out' >&2; exit 1" if units is None else f"printf '{units}'"
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\n{answer}\n")
    systemctl.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", Jobs().command(["switch-m"])], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert {name: job.running for name, job in Jobs().process(done.stdout.splitlines()).items()} == expected


@pytest.mark.parametrize("running", [(), ("fetch",), ("fetch", "switch-m")])
def test_a_box_where_no_job_runs_asks_systemd_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: tuple[str, ...]
) -> None:
    """Every deploy and audit reads this, and a box keeps the directories of all its builds."""
    jobs, calls, active = tmp_path / "jobs", tmp_path / "calls", tmp_path / "active"
    monkeypatch.setattr(layout, "JOBS", str(jobs))
    for name in ("build-a", "build-b", "fetch", "switch-m"):
        (jobs / name).mkdir(parents=True)
        (jobs / name / "job.json").write_text(f'{{"name": "{name}"}}')
    active.mkdir()
    for name in running:
        (active / f"{layout.job_unit(name)}0a1b.service").touch()
    systemctl = tmp_path / "systemctl"
    # As systemctl does with a pattern: a line for each unit that matches, and none where none does.
    systemctl.write_text(
        f'#!/bin/sh\necho x >>{calls}\ntest "$1" = is-active || {{ echo "Sat 2026-11-21"; exit; }}\n'
        f"cd {active} && for unit in $2; do test -e $unit && echo active; done\n"
    )
    systemctl.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", RunningJobs().command()], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    found = RunningJobs().process(done.stdout.splitlines())
    assert {name: (job.text, job.since) for name, job in found.items()} == {
        name: (f'{{"name": "{name}"}}', "Sat 2026-11-21") for name in running
    }
    if not running:
        assert calls.read_text() == "x\n"
