"""tasks/tune.py with the real llama-server: a setting made worse is found and undone, noise makes no winner, and what
served serves again, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llamarig.records.plan_file import read_plan_file
from llamarig.records.tuning import Tuning

from tests.box import larger_model
from tests.box.deployment import Deployment, Outcome, wait_for
from tests.box.hub import Hub
from tests.box.rehearse import chat

pytestmark = pytest.mark.box

UNIT = f"llamarig-{larger_model.NAME}"
JOB = f"/var/lib/llamarig/jobs/switch-{larger_model.NAME}.tune"
WORKLOAD = {"preset": "agent"}


def serve(variant: Deployment, hub: Hub, **settings: Any) -> None:
    """Deploy the larger model with these settings, and switch to it."""
    # A small context: the workload has as many tokens, and each replay takes seconds.
    larger_model.declare(variant, hub, context=2048, **settings)
    variant.rig["models"][1]["workload"] = WORKLOAD
    for outcome in (variant.run(), variant.run("--data", "model=larger", script="tasks/switch.py")):
        assert outcome.code == 0, str(outcome)


def tune(variant: Deployment, *more: str, minutes: int = 20) -> Outcome:
    return variant.run("--data", f"minutes={minutes}", *more, script="tasks/tune.py", timeout=60 * minutes + 300)


def result(variant: Deployment) -> Tuning:
    return read_plan_file(variant.rig["plan_file"]).tuned["rehearsal-box"][larger_model.NAME].tuning


def serves_as_before(variant: Deployment, text: str) -> None:
    """The larger model serves with its unit file as it was, answers, and nothing of the tuning is left."""
    wait_for(lambda: variant.shell(f"systemctl is-active {UNIT}; true") == "active", "the model that served")
    assert variant.shell(f"cat /etc/systemd/system/{UNIT}.service") == text
    wait_for(lambda: variant.shell(f"curl -s --noproxy '*' {variant.address}/health; true") == '{"status":"ok"}', "it")
    assert chat(variant.address, "Say hello.")
    assert (
        variant.shell("ls /etc/systemd/system/*before /var/lib/llamarig/proofs/switch-journal 2>/dev/null; true") == ""
    )


@pytest.fixture
def box(variant: Deployment, hub: Hub) -> Iterator[Deployment]:
    yield variant
    larger_model.remove(variant)


def test_a_setting_made_worse_is_found_undone_and_adopted(box: Deployment, hub: Hub) -> None:
    serve(box, hub, ubatch=32, batch=32)
    text = box.shell(f"cat /etc/systemd/system/{UNIT}.service")
    outcome = tune(box, "--data", "model=larger")
    assert outcome.code == 0, str(outcome)
    found = result(box)
    assert found.verdict == "faster", str(outcome)
    assert "ubatch" in found.settings, found
    assert found.low is not None
    assert found.low > 0.03
    serves_as_before(box, text)
    output = " ".join(outcome.output.split())
    assert "accept it with tasks/tune.py --data accept=larger" in output
    accepted = box.run("--data", "accept=larger", script="tasks/tune.py")
    assert accepted.code == 0, str(accepted)
    deployed = box.run()
    assert deployed.code == 0, str(deployed)
    assert f"--ubatch-size {found.settings['ubatch']}" in box.shell(f"cat /etc/systemd/system/{UNIT}.service")
    assert box.run().changed == []
