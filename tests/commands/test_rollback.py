"""Repeating an interrupted rollback: it waits for a running switch, then rolls back the other models."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from llamarig.commands.rollback import earlier_starts, job_back_to, rolled_back
from llamarig.engine.run import of_host
from llamarig.facts.units import Unit
from llamarig.remote.shared.jobs import StartRecord

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


def started(replies: dict[str, str], only: str | None, concluded: list[str] | None = None) -> list[str]:
    """Models whose switch was started.

    :param concluded: takes the lines of the closing block
    """
    both = rig({"coexists": True}, {"coexists": True})
    with fake_run((rolled_back, {"rig": both, "only": only}), replies=replies) as this:
        if concluded is not None:
            concluded += of_host(this.host()).result
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


def test_a_running_switch_is_waited_for_without_further_commands(replies: dict[str, str]) -> None:
    concluded: list[str] = []
    assert started(replies, "m0", concluded) == []
    assert concluded == ["the running switch was this rollback: nothing is left to do"]


@pytest.mark.parametrize("enabled", ["enabled", "disabled"])
def test_what_starts_at_boot_stays_as_it_is(enabled: str) -> None:
    """The earlier start was of a default that has been replaced since, beside a model that may run beside it now."""
    job = {**proof("m0")["job"], "peers": ["llamarig-m2.service"], "retired": ["llamarig-m9.service"], "enable": True}
    record = StartRecord.from_stored({**proof("m0"), "job": job})
    back = job_back_to(record, rig({}, {}, {"coexists": True}), "m0", Unit(enabled=enabled))
    assert (back.peers, back.retired, back.enable) == (("llamarig-m1.service",), (), enabled == "enabled")
    assert back.text == record.text


def test_a_switch_of_another_model_is_refused(replies: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperationFailedError):
        started(replies, "m1")
    assert "a switch of model 'm0' to another unit than the declared one" in caplog.text


def record(text: str, proved_at: str = "2026-11-21T18:38:14Z") -> StartRecord:
    return StartRecord.from_stored(
        {"text": text, "job": {"unit": "llamarig-m0.service", "text": text, "commit": COMMIT}, "proved_at": proved_at}
    )


NOW, BEFORE, FIRST = (f"[Service]\nExecStart=/{name}\n" for name in ("now", "before", "first"))


@pytest.mark.parametrize(
    ("installed", "current", "previous", "found"),
    [
        (NOW, NOW, BEFORE, BEFORE),
        # Its unit was replaced while it did not run, and has not answered: the last start is what it goes back to.
        (NOW, BEFORE, FIRST, BEFORE),
        # A second rollback.
        (BEFORE, BEFORE, NOW, NOW),
        ("# Other comments.\n" + NOW, NOW, None, None),
        (NOW, None, None, None),
        ("", NOW, BEFORE, None),
    ],
    ids=["running", "not started since", "second", "other comments", "never answered", "not installed"],
)
def test_each_model_goes_back_to_the_last_unit_that_answered_and_differs(
    installed: str, current: str | None, previous: str | None, found: str | None
) -> None:
    name = "llamarig-m0.service"
    records = [{name: record(text)} if text else {} for text in (current, previous)]
    starts = earlier_starts(["m0"], {name: Unit(text=installed)}, *records)
    assert {model: one.text for model, one in starts.items()} == ({"m0": found} if found else {})


def test_a_model_that_does_not_run_is_not_started() -> None:
    for active, is_started in (("active", True), ("inactive", False)):
        assert job_back_to(record(NOW), rig({}), "m0", Unit(active=active)).start is is_started


def test_a_rollback_names_what_it_goes_back_to(replies: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    replies["ActiveEnterTimestamp"] = ""
    both = rig({"coexists": True}, {"coexists": True})
    with fake_run((rolled_back, {"rig": both}), replies=replies) as this:
        uploaded = [command for command in this.commands if "base64 -d" in command and ".rolled-back" in command]
        lines = of_host(this.host()).result
    assert len(uploaded) == 2, "by which an audit tells it"
    assert lines[0] == "returned to what answered before:"
    assert lines[1].startswith("m0: ")
    assert lines[2] == f"    the next deploy reverts this unless you declare llama.cpp {COMMIT} for m0"
