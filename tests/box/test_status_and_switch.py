"""tasks/status.py and tasks/switch.py against a real box with two models that exclude each other."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from tests.box.deployment import HOST, Deployment, Outcome
from tests.box.rehearse import chat
from tests.box.two_models import two_models

pytestmark = pytest.mark.box

STATUS, SWITCH = "tasks/status.py", "tasks/switch.py"


@pytest.fixture
def box(variant: Deployment, deployment: Deployment) -> Iterator[Deployment]:
    with two_models(variant, deployment) as box:
        yield box


def block(outcome: Outcome) -> list[str]:
    """The lines of the closing block about the host, the headline first."""
    lines = [line.strip() for line in click.unstyle(outcome.output).splitlines()]
    return lines[lines.index(next(line for line in lines if line.startswith(f"{HOST}: "))) :]


def test_one_screen_says_what_runs(box: Deployment) -> None:
    assert chat(box.address, "Tell me about the weather.")
    outcome = box.run(script=STATUS)
    assert outcome.code == 0, str(outcome)
    headline, tiny, work, memory, second, *_ = block(outcome)
    assert headline == f"{HOST}: as declared"
    assert tiny.startswith("tiny    answers, runs for ")
    assert f"; llama.cpp {box.rig['builds'][0]['source']['commit'][:7]} on 127.0.0.1:" in tiny
    assert f"context {box.rig['models'][0]['serve']['context']}" in tiny
    assert work.startswith("last request ")
    assert " tokens/s, prompt " in work
    assert work.endswith("0 of 1 slot busy")
    assert memory.startswith("RAM 0.")
    assert second == "second  stopped"

    box.shell("systemctl stop llamarig-tiny")
    headline, tiny, *_ = block(box.run(script=STATUS))
    assert headline == f"{HOST}: drift: one difference from its declaration (see tasks/audit.py)"
    assert tiny == "tiny    stopped"


def test_a_switch_waits_for_the_answer_and_says_how_long(box: Deployment) -> None:
    outcome = box.run("--data", "model=second", script=SWITCH)
    assert outcome.code == 0, str(outcome)
    assert block(outcome)[0].startswith(f"{HOST}: second answers, away for ")
    assert block(outcome)[0].endswith("; tiny was stopped for it")
    assert chat(box.address, "Are you the second?")
    assert box.shell("systemctl is-enabled llamarig-tiny llamarig-second; true").split() == ["enabled", "disabled"]
    again = box.run("--data", "model=second", script=SWITCH)
    assert block(again)[0] == f"{HOST}: second runs already, and answers"
    assert again.changed == []
    assert box.run().changed == [], "a deploy leaves the model that was switched to"


def test_a_switch_that_fails_says_what_serves_again(box: Deployment) -> None:
    box.write(
        "/etc/systemd/system/llamarig-second.service.d/test.conf", "[Service]\nExecStart=\nExecStart=/bin/false\n"
    )
    box.shell("systemctl daemon-reload")
    outcome = box.run("--data", "model=second", script=SWITCH)
    assert outcome.code == 1
    headline = block(outcome)[0]
    assert headline.startswith(f"{HOST}: failed: second: llamarig-second.service ")
    assert "llamarig-tiny.service serves again as before; it was away for " in headline
    assert chat(box.address, "Still there?")


@pytest.mark.parametrize(
    ("name", "words"),
    [("", "which model? write --data model=NAME; this box has tiny, second"), ("tinny", "no model is called 'tinny'")],
)
def test_a_switch_to_no_model_is_refused(box: Deployment, name: str, words: str) -> None:
    outcome = box.run(*(("--data", f"model={name}") if name else ()), script=SWITCH)
    assert outcome.code == 1
    assert words in outcome.output


def test_a_switch_to_a_model_that_is_not_as_declared_is_refused(box: Deployment) -> None:
    box.rig["models"][1]["serve"] = {**box.rig["models"][1]["serve"], "context": 2048}
    outcome = box.run("--data", "model=second", script=SWITCH)
    assert outcome.code == 1
    assert "the unit of second is not as declared (--ctx-size " in outcome.output
    assert "run deploy.py first" in outcome.output
