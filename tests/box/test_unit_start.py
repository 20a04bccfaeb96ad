"""`systemctl start` of a model: it returns when the model answers, or fails, and another start may interrupt it.

The tiny model loads in less than a second, so these units start their server some seconds later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.box import machine
from tests.box.deployment import Deployment, wait_for
from tests.box.rehearse import chat
from tests.box.two_models import SECOND, TINY, two_models

pytestmark = pytest.mark.box

DROP_IN = "/etc/systemd/system/{unit}.d/test.conf"


@pytest.fixture
def box(variant: Deployment, deployment: Deployment) -> Iterator[Deployment]:
    with two_models(variant, deployment) as box:
        yield box


def begin_with(deployment: Deployment, unit: str, script: str) -> None:
    """Let the unit run a script before its server: `exec "$@"` is the server."""
    command = deployment.shell(
        rf"sed -n '/^ExecStart=/,/[^\\]$/p' /etc/systemd/system/{unit} | sed 's/\\$//; s/^ExecStart=//' | tr -d '\n'"
    )
    text = f"[Service]\nRestart=no\nExecStart=\nExecStart=/bin/sh -c '{script}' sh {command}\n"
    deployment.write(DROP_IN.format(unit=unit), text)
    deployment.shell("systemctl daemon-reload")


def properties(deployment: Deployment, unit: str, name: str) -> str:
    return deployment.shell(f"systemctl show {unit} -p {name} --value")


def health(deployment: Deployment) -> str:
    return f"curl -s -o /dev/null -w '%{{http_code}}' --noproxy '*' {deployment.address}/health"


def test_a_start_returns_when_the_model_answers(box: Deployment) -> None:
    begin_with(box, TINY, 'sleep 4; exec "$@"')
    assert box.shell(f"systemctl restart {TINY} && {health(box)}") == "200"
    assert "the model answers" in box.shell(f"journalctl -u {TINY} -n 50 -o cat")


def test_a_start_fails_where_the_server_ends(box: Deployment) -> None:
    begin_with(box, TINY, "echo no such tensor; sleep 2; exit 3")
    # Type=exec alone would call it a success.
    assert box.shell(f"systemctl restart {TINY} 2>/dev/null; echo $?") == "1"
    assert properties(box, TINY, "ActiveState") == "failed"
    lines = box.shell(f"systemctl status --no-pager {TINY} || true")
    assert "no such tensor" in lines
    assert "the server has ended before the model answered" in lines


def test_another_model_interrupts_a_start(box: Deployment) -> None:
    box.shell(f"systemctl stop {TINY}")
    begin_with(box, TINY, 'sleep 60; exec "$@"')
    results: list[str] = []
    first = threading.Thread(
        target=lambda: results.append(box.shell(f"systemctl start {TINY} 2>&1; echo $?", timeout=120))
    )
    first.start()
    wait_for(lambda: properties(box, TINY, "SubState") == "start-post", "the start of the first model")
    assert box.shell(f"systemctl start {SECOND} && {health(box)}") == "200"
    first.join()
    assert results[0].endswith("\n1"), results
    assert "canceled" in results[0]
    assert properties(box, TINY, "ActiveState") in ("inactive", "failed")
    assert chat(box.address, "Which of the two?")


def test_a_deploy_interrupts_a_start_by_hand_and_shows_its_progress(box: Deployment) -> None:
    begin_with(box, SECOND, 'sleep 60; exec "$@"')
    box.shell(f"systemctl start --no-block {SECOND}")
    wait_for(lambda: properties(box, SECOND, "SubState") == "start-post", "the start of the other model")
    box.shell(f"systemctl start {TINY}")
    box.rig["models"][0]["serve"]["context"] = 6144
    box.rig["models"][1]["serve"]["accept"] = {"drop-in": "it delays the start, for this test"}
    outcome = box.run()
    assert outcome.code == 0, str(outcome)
    assert "answers; it was away for" in outcome.output
    assert properties(box, SECOND, "ActiveState") in ("inactive", "failed")


def test_a_boot_does_not_wait_for_the_model(box: Deployment) -> None:
    begin_with(box, TINY, 'sleep 15; exec "$@"')
    machine.down(box.box)
    machine.up(box.box)
    wait_for(lambda: box.shell(f"{health(box)}; true") == "200", "the model after the boot")
    wait_for(lambda: properties(box, TINY, "ActiveState") == "active", "the end of its start")
    reached = int(properties(box, "multi-user.target", "ActiveEnterTimestampMonotonic"))
    answered = int(properties(box, TINY, "ActiveEnterTimestampMonotonic"))
    assert 0 < reached < answered, "multi-user.target waited for the model"
    # It was started with the others, not after the boot.
    began = int(properties(box, TINY, "ExecMainStartTimestampMonotonic"))
    assert answered - began >= 15_000_000
