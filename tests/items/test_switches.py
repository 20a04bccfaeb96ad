"""A switch that runs already: one to the declared unit is waited for, another is refused, and none is stopped."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from llamarig.engine.item import Commands
from llamarig.items.switches import run_switch, switches_awaited
from llamarig.remote.shared.jobs import SwitchJob
from llamarig.render.switch_recovery import SERVICE
from pyinfra.api.operation import operation

from tests.engine.fake_run import OperationFailedError, fake_run

UNIT, TEXT = "llamarig-m.service", "[Service]\nExecStart=/x\n"
SINCE = "Sat 2026-11-21 19:00:00 UTC"
JOB = {"unit": UNIT, "text": TEXT, "commit": "0c1e57098bba43ac29e6e3b677cdceebdd22334f", "peers": []}
"""The part of a switch job that decides whether a running one is waited for."""
DONE = {"state": "done", "message": f"{UNIT} answers; it was away for 9 s"}
FAILED = {"state": "failed", "message": "it crashed; the old one serves again", "lines": ["CUDA error"]}


@operation(is_idempotent=False)
def switched(takeover: bool) -> Commands:
    """As ServedModels does; where it waited for a switch, there is nothing left to switch."""
    waited = yield from switches_awaited({UNIT: TEXT}, takeover=takeover)
    if waited == set():
        yield from run_switch("m", SwitchJob.from_stored(JOB), takeover=takeover)


def commands_sent(running: dict[str, Any] | None, status: dict[str, Any], *, takeover: bool = False) -> list[str]:
    """Commands sent to a box on which the switch ``running`` runs, without those that only read."""
    name = f"switch-{running['unit'][9:-8]}" if running else ""
    replies = {
        "ActiveEnterTimestamp": f'{name}\t{SINCE}\t{json.dumps(running)}\t{{"owner": "anna@laptop"}}'
        if running
        else "",
        "echo job=": f"job=switch-m\nstatus={json.dumps(status)}",
    }
    acts = "systemd-run|systemctl stop|rm -f|while systemctl is-active"
    with fake_run((switched, {"name": "Switch", "takeover": takeover}), replies=replies) as this:
        return [command for command in this.commands if re.search(acts, command)]


@pytest.mark.parametrize("more", [{}, {"peers": ["llamarig-x.service"]}])
def test_a_switch_to_the_declared_unit_is_waited_for(more: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Even if it was started to stop other units: which units serve has changed since its start."""
    caplog.set_level("INFO", logger="pyinfra")
    assert commands_sent({**JOB, **more}, DONE) == []
    assert "the switch of m is already running on the box" in caplog.text
    assert f"m: {UNIT} answers; it was away for 9 s" in caplog.text


def test_the_deploy_fails_where_the_switch_fails(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError):
        commands_sent(
            JOB, {"state": "failed", "message": "it crashed; the old one serves again", "lines": ["CUDA error"]}
        )
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
def test_another_switch_is_refused(other: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    model = other["unit"][9:-8]
    with pytest.raises(OperationFailedError):
        commands_sent(other, DONE)
    messages = [record.getMessage() for record in caplog.records]
    (message,) = [message for message in messages if "is running on the box" in message]
    for words in (
        "@fake",
        f"switch of model {model!r}",
        f"by anna@laptop since {SINCE}",
        "--data takeover=1",
        "0c1e57098bba",
        "restores the previous server",
    ):
        assert words in message
    assert f"systemctl stop 'llamarig-job-switch-{model}_*'" in message


def test_starting_a_switch_stops_no_other_one() -> None:
    commands = commands_sent(None, DONE)
    assert [command for command in commands if "systemctl stop" in command] == []
    (start,) = [command for command in commands if "systemd-run" in command]
    assert "ExecStopPost=" in start
    assert f"OnFailure={SERVICE}" in start


def test_another_switch_is_left_to_the_box_on_request() -> None:
    """There, the new job stops it."""
    other = {**JOB, "unit": "llamarig-other.service"}
    commands = commands_sent(other, DONE, takeover=True)
    assert [command for command in commands if "systemd-run" in command]
