"""A rollback that was interrupted and is run again: what is under way is waited for, the rest still done."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from tasks.operations import once
from tasks.operations.rollback import rolled_back
from tests.operations.fake_run import run_of
from tests.planning.cuda_rig import rig

COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"


def proof(name: str) -> dict[str, Any]:
    text = f"[Service]\nExecStart=/before/{name}\n"
    return {"text": text, "job": {"unit": f"llamarig-{name}.service", "text": text, "commit": COMMIT, "peers": []}}


@pytest.fixture
def responses(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two models that run side by side, each with a proof of before; the switch of m0 back to it is under way."""
    monkeypatch.setattr(once, "_READ", {})
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


def started(responses: dict[str, str], only: str | None) -> list[str]:
    """Models whose switch was started."""
    both = rig({"coexists": True}, {"coexists": True})
    with run_of((rolled_back, {"rig": both, "only": only}), responses=responses) as (_, commands):
        units = [re.search(r"--unit=\S*switch-(m\d)_", command) for command in commands]
    return [found[1] for found in units if found is not None]


def test_a_model_that_is_back_already_does_not_go_forward_again(responses: dict[str, str]) -> None:
    """Interrupted at the second one: the first one's proof of before is by now what it came from."""
    at_the_second = (
        responses["ActiveEnterTimestamp"].replace("switch-m0", "switch-m1").replace("m0.service", "m1.service")
    )
    responses["ActiveEnterTimestamp"] = at_the_second.replace("/before/m0", "/before/m1")
    assert started(responses, None) == []


def test_the_other_model_is_rolled_back_once_the_first_is_done(responses: dict[str, str]) -> None:
    assert started(responses, None) == ["m1"]


def test_the_one_under_way_is_waited_for_and_that_is_all(
    responses: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    assert started(responses, "m0") == []
    assert "that was this rollback already" in caplog.text


def test_another_models_rollback_is_not_taken_for_this_one(
    responses: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AssertionError, match="failed"):
        started(responses, "m1")
    assert "a switch of model 'm0' is under way" in caplog.text
