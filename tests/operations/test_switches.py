"""What a deploy does about a switch that is under way: waits for its own, refuses another, and never stops one."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.operation import operation

from tasks.operations import Commands
from tasks.operations.jobs import none_runs
from tasks.operations.switches import run_switch, switches_awaited
from tests.operations.fake_run import run_of

UNIT, TEXT = "llamarig-m.service", "[Service]\nExecStart=/x\n"
SINCE = "Sat 2026-11-21 19:00:00 UTC"
JOB = {"unit": UNIT, "text": TEXT, "commit": "0c1e57098bba43ac29e6e3b677cdceebdd22334f", "peers": []}
DONE = {"state": "done", "message": f"{UNIT} answers; it was away for 9 s"}


@operation(is_idempotent=False)
def switched() -> Commands:
    """As models_served does it; where it waited for a switch, there is nothing left to switch."""
    waited = yield from switches_awaited({UNIT: TEXT})
    if waited == set():
        yield from run_switch("m", JOB)


def told(running: dict[str, Any] | None, status: dict[str, Any]) -> list[str]:
    """What the box is told while ``running`` is under way on it, questions left out."""
    name = f"switch-{running['unit'][9:-8]}" if running else ""
    responses = {
        "ActiveEnterTimestamp": f"{name}\t{SINCE}\t{json.dumps(running)}" if running else "",
        "echo job=": f"job=switch-m\nstatus={json.dumps(status)}",
    }
    acts = "systemd-run|systemctl stop|rm -f|while systemctl is-active"
    with run_of((switched, {"name": "Switch"}), responses=responses) as (_, commands):
        return [command for command in commands if re.search(acts, command)]


@pytest.mark.parametrize("more", [{}, {"peers": ["llamarig-x.service"]}])
def test_its_own_switch_is_waited_for(more: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Also where other units were to be stopped for it: what served has changed since it began."""
    caplog.set_level("INFO", logger="pyinfra")
    assert told({**JOB, **more}, DONE) == []
    assert "the switch of m is already under way on the box" in caplog.text
    assert f"m: {UNIT} answers; it was away for 9 s" in caplog.text


def test_how_it_ends_is_how_the_deploy_ends(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AssertionError, match="failed"):
        told(JOB, {"state": "failed", "message": "it crashed; the old one serves again", "lines": ["CUDA error"]})
    assert "m: it crashed; the old one serves again" in caplog.text
    assert "CUDA error" in caplog.text


@pytest.mark.parametrize(
    "other",
    [
        {**JOB, "text": "[Service]\nExecStart=/y\n"},
        # Another model's may stop this one's server, or take its memory.
        {**JOB, "unit": "llamarig-other.service"},
    ],
)
def test_another_switch_is_refused_in_words(other: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    model = other["unit"][9:-8]
    with pytest.raises(AssertionError, match="failed"):
        told(other, DONE)
    (message,) = [record.getMessage() for record in caplog.records if "under way" in record.getMessage()]
    for words in ("@fake", f"switch of model {model!r}", SINCE, "0c1e57098bba", "brings back what served before"):
        assert words in message
    assert f"systemctl stop 'llamarig-job-switch-{model}_*'" in message


def test_a_switch_of_ones_own_never_stops_another() -> None:
    asked = told(None, DONE)
    assert [command for command in asked if "systemctl stop" in command] == []
    first, *_, last = asked
    assert "is-active 'llamarig-job-switch-*_*'" in first, "one that began since it was looked for"
    assert "systemd-run" in last


@pytest.mark.parametrize(("active", "code"), [(3, 0), (1000, 1)])
def test_a_switch_that_is_just_ending_is_no_other_one(active: int, code: int, tmp_path: Path) -> None:
    """Its result is written a moment before its process is gone; the next model's switch comes right after it."""
    asked = tmp_path / "asked"
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho x >>{asked}\ntest $(wc -l <{asked}) -le {active} && echo deactivating\n")
    systemctl.chmod(0o755)
    command = str(none_runs("switch-*"))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True)
    assert done.returncode == code
    assert ("another switch has just begun" in done.stderr) == bool(code)
