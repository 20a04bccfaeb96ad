"""`systemctl edit` of a model's unit: the drop-in is named, and refused or accepted; no deploy restarts the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.audit_report import audit
from tests.box.deployment import Deployment
from tests.box.refusals import invocation_id, refusal
from tests.box.rehearse import chat

pytestmark = pytest.mark.box

OVERRIDE = "/etc/systemd/system/llamarig-tiny.service.d/override.conf"


@pytest.fixture
def edited(variant: Deployment, deployment: Deployment) -> Iterator[Deployment]:
    """A box whose owner has given the model a command line of his own with `systemctl edit`."""
    unit = "/etc/systemd/system/llamarig-tiny.service"
    command = variant.shell(rf"sed -n '/^ExecStart=/,/[^\\]$/p' {unit} | sed 's/\\$//; s/^ExecStart=//' | tr -d '\n'")
    variant.write(OVERRIDE, f"[Service]\nExecStart=\nExecStart={command} --metrics\n")
    variant.shell("systemctl daemon-reload; systemctl restart llamarig-tiny")
    yield variant
    deployment.shell(
        "rm -rf /etc/systemd/system/llamarig-*.d; systemctl daemon-reload; systemctl restart llamarig-tiny"
    )
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert chat(deployment.address, "As before?")


def test_an_override_is_refused_with_its_path_and_settings(edited: Deployment, tmp_path: Path) -> None:
    started = invocation_id(edited)
    outcome = edited.run()
    line = refusal(outcome, f"llamarig-tiny.service is overridden: {OVERRIDE} sets ExecStart", "systemctl revert")
    assert 'accept={"drop-in": "your reason"} in serve' in line
    assert invocation_id(edited) == started
    audited, host = audit(edited, tmp_path / "report.json")
    assert audited.code == 1
    assert [finding["check"] for finding in host["findings"] if finding["severity"] in ("error", "warning")] == [
        "llama.drop-ins"
    ]


def test_an_accepted_override_restarts_nothing(edited: Deployment) -> None:
    edited.rig["models"][0]["serve"]["accept"] = {"drop-in": "a flag that I try"}
    started = invocation_id(edited)
    for _ in range(2):
        outcome = edited.run()
        assert (outcome.code, outcome.changed) == (0, []), str(outcome)
    assert invocation_id(edited) == started
