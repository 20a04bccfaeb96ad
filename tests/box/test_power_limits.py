"""Declared power limits, on a stand-in for nvidia-smi: set, read back, set again after a boot, put back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box import machine
from tests.box.deployment import Deployment, Outcome, wait_for

pytestmark = pytest.mark.box

STAND_IN = Path(__file__).with_name("nvidia_smi_stand_in.py")
PROGRAM = "/usr/local/bin/nvidia-smi"
LIMITS = "GPU setup"
UNIT = "llamarig_gpus.service"


@pytest.fixture
def cards(variant: Deployment) -> Iterator[Deployment]:
    """A box that seems to have two H200, the first of them declared with 450 W."""
    variant.rig["host"]["gpus"] = [{"name": "H200", "power_limit_w": 450}, {"name": "H200"}]
    yield variant
    variant.shell(
        f"systemctl disable -q --now {UNIT} 2>/dev/null; rm -f {PROGRAM} /etc/systemd/system/{UNIT} /run/cards.json "
        "/run/stubborn-cards; systemctl daemon-reload"
    )


def settings(box: Deployment) -> Outcome:
    return box.run(script="tests/box/deploy_gpu_setup.py")


def limits(box: Deployment) -> list[float]:
    output = box.shell(f"{PROGRAM} --query-gpu=all").splitlines()
    return [float(line.split(", ")[12]) for line in output]


def failing(box: Deployment, report: Path) -> list[tuple[str, str]]:
    outcome = box.run("--data", "only=gpu,deploy", "--data", f"json={report}", script="tasks/audit.py")
    (host,) = json.loads(report.read_text())["hosts"]
    assert outcome.code == (0 if host["status"] == "clean" else 1), str(outcome)
    return [(item["check"], item["found"]) for item in host["findings"] if item["fails"]]


def test_without_nvidia_smi_a_limit_is_refused_in_one_message(cards: Deployment) -> None:
    refused = settings(cards)
    assert refused.code == 1
    assert "no nvidia-smi on this box: install the NVIDIA driver" in refused.output
    assert "Traceback" not in refused.output
    assert cards.shell(f"test -e /etc/systemd/system/{UNIT} || echo none") == "none"


def test_a_limit_is_set_kept_through_a_boot_and_put_back(cards: Deployment, tmp_path: Path) -> None:
    cards.write(PROGRAM, STAND_IN.read_text())
    cards.shell(f"chmod 755 {PROGRAM}")
    assert failing(cards, tmp_path / "report.json") == [("gpu.power", "700 W, persistence mode off")]
    first = settings(cards)
    assert (first.code, first.changed) == (0, [LIMITS]), str(first)
    assert limits(cards) == [450, 700]
    assert settings(cards).changed == []
    assert failing(cards, tmp_path / "report.json") == []

    machine.down(cards.box)
    machine.up(cards.box)
    wait_for(lambda: limits(cards) == [450, 700], "the limit after a boot")
    assert settings(cards).changed == []

    cards.shell(f"{PROGRAM} --id=GPU-abb3f99e-7dc8-fb04-7f9d-6c963a49df37 --power-limit=600; touch /run/stubborn-cards")
    assert failing(cards, tmp_path / "report.json") == [("gpu.power", "600 W")]
    stubborn = settings(cards)
    assert stubborn.code == 1
    assert "the cards do not have them" in stubborn.output
    cards.shell("rm /run/stubborn-cards")
    assert settings(cards).changed == [LIMITS]
    assert limits(cards) == [450, 700]

    cards.rig["host"]["gpus"][0]["power_limit_w"] = 150
    assert "NVIDIA H200 takes 200 to 700 W" in settings(cards).output
    assert limits(cards) == [450, 700]

    del cards.rig["host"]["gpus"][0]["power_limit_w"]
    assert settings(cards).changed == [LIMITS]
    assert limits(cards) == [700, 700]
    assert cards.shell(f"test -e /etc/systemd/system/{UNIT} || echo none") == "none"
    assert settings(cards).changed == []
