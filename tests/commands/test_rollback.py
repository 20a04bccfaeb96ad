"""Repeating an interrupted rollback: it waits for a running switch, then rolls back the other models."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from llamarig.commands.rollback import rolled_back

from tests.engine.fake_run import OperationFailedError, fake_run
from tests.placement.cuda_rig import rig

COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"


def proof(name: str) -> dict[str, Any]:
    text = f"[Service]\nExecStart=/before/{name}\n"
    return {"text": text, "job": {"unit": f"llamarig-{name}.service", "text": text, "commit": COMMIT, "peers": []}}


@pytest.fixture
def replies() -> dict[str, str]:
    """A box with two models that run side by side, each with an earlier proof; the switch of m0 back to it runs."""
    text = base64.b64encode(b"[Service]\nExecStart=/now\n").decode()
    units = [f"unit=llamarig-{name}.service\nText={text}\nActiveState=active" for name in ("m0", "m1")]
    previous = [f"llamarig-{name}.service\t{json.dumps(proof(name))}" for name in ("m0", "m1")]
    done = json.dumps({"state": "done", "message": "answers"})
    return {
        "ActiveEnterTimestamp": f"switch-m0\tSat 2026-11-21 19:00:00 UTC\t{json.dumps(proof('m0')['job'])}",
        "previous.json": "\n".join(previous),
        "NeedDaemonReload": "\n".join(units),
        "echo job=switch-m0": f"job=switch-m0\nstatus={done}",
        "echo job=switch-m1": f"job=switch-m1\nstatus={done}",
    }


def started(replies: dict[str, str], only: str | None) -> list[str]:
    """Models whose switch was started."""
    both = rig({"coexists": True}, {"coexists": True})
    with fake_run((rolled_back, {"rig": both, "only": only}), replies=replies) as this:
        units = [re.search(r"--unit=\S*switch-(m\d)_", command) for command in this.commands]
    return [found[1] for found in units if found is not None]


def test_a_model_that_was_rolled_back_already_is_not_switched_again(replies: dict[str, str]) -> None:
    """Interrupted at the second model: the earlier proof of the first is by now what it was rolled back from."""
    at_the_second = (
        replies["ActiveEnterTimestamp"].replace("switch-m0", "switch-m1").replace("m0.service", "m1.service")
    )
    replies["ActiveEnterTimestamp"] = at_the_second.replace("/before/m0", "/before/m1")
    assert started(replies, None) == []


def test_the_other_model_is_rolled_back_once_the_first_is_done(replies: dict[str, str]) -> None:
    assert started(replies, None) == ["m1"]


def test_a_running_switch_is_waited_for_without_further_commands(
    replies: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    assert started(replies, "m0") == []
    assert "the running switch was this rollback" in caplog.text


def test_a_switch_of_another_model_is_refused(replies: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError):
        started(replies, "m1")
    assert "a switch of model 'm0' to another unit than the declared one" in caplog.text
