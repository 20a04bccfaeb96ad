"""Two people deploy different models to one box at once: one of them gets an answer in words, and one model serves."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.deployment import Deployment
from tests.box.rehearse import chat

pytestmark = [pytest.mark.box, pytest.mark.long]

PEOPLE = ("anna", "ben")
ROUNDS = 20


@pytest.fixture
def shared(deployment: Deployment) -> Iterator[Deployment]:
    """The box; afterwards the units of both are removed, and the declared model serves."""
    yield deployment
    for person in PEOPLE:
        deployment.shell(
            f"systemctl disable -q --now llamarig-{person} 2>/dev/null; "
            f"rm -f /etc/systemd/system/llamarig-{person}.service; systemctl daemon-reload"
        )
    outcome = deployment.run()
    assert outcome.code == 0, str(outcome)
    assert chat(deployment.address, "As before?")


def test_two_people_never_leave_two_models_or_an_unproved_one(
    shared: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(14)
    of = {person: shared.variant(tmp_path / person) for person in PEOPLE}
    # Servers by their command lines: a flag check has --help; while it begins or ends, /proc shows none of its
    # arguments, and pgrep prints [llama-server].
    seen = "pgrep -xa llama-server | grep -e ' --model ' | grep -vE -e '--(help|version|list-devices)' >/run/now"
    sample = f"{seen}; test $(wc -l </run/now) -lt 2 || cat /run/now; sleep 0.02"
    script = f"#!/bin/sh\nwhile :; do {sample}; done >/run/beside-each-other\n"
    shared.write("/run/count-servers", script)
    shared.shell("systemd-run -q --unit=count-servers sh /run/count-servers")
    refusals = 0
    for number in range(ROUNDS):
        running = {}
        for person in chance.sample(PEOPLE, len(PEOPLE)):
            of[person].rig["models"][0]["name"] = person
            of[person].rig["models"][0]["serve"]["ubatch"] = 64 + 32 * (number % 4)
            monkeypatch.setenv("LOGNAME", person)  # the owner of a job is user@machine
            running[person] = of[person].start(log=tmp_path / f"{person}-{number}")
            time.sleep(chance.uniform(0, 6))
        codes = {person: run.exit_code() for person, run in running.items()}
        outputs = {person: " ".join(run.output().split()) for person, run in running.items()}
        print(f"round {number}: {codes}")
        assert 0 in codes.values(), outputs
        for person in PEOPLE:
            if codes[person]:
                assert "is running on" in outputs[person], outputs[person]
                refusals += 1
        serves_what_was_proved(shared)
    shared.shell("systemctl stop count-servers")
    together = shared.shell("sort -u /run/beside-each-other")
    assert together == "", f"two models were resident:\n{together}"
    assert refusals, "no two deploys ever met: change the delays"


def serves_what_was_proved(deployment: Deployment) -> None:
    assert chat(deployment.address, "Who serves?")
    active = deployment.shell("systemctl list-units --plain --no-legend --state=active 'llamarig-*.service'")
    (unit,) = [line.split()[0] for line in active.splitlines() if not line.startswith("llamarig-job-")]
    proof = json.loads(deployment.shell(f"cat /var/lib/llamarig/proofs/{unit}.json"))
    assert proof["text"].strip() == deployment.shell(f"cat /etc/systemd/system/{unit}").strip()
    assert deployment.shell("ls /var/lib/llamarig/proofs | grep journal || echo none") == "none"
