"""Declared power limits with a stand-in for nvidia-smi: set, verified, set again after a boot, and reset."""

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
GPU_SETUP = "GPU setup"
UNIT = "llamarig_gpus.service"


@pytest.fixture
def cards(variant: Deployment) -> Iterator[Deployment]:
    """A variant with two simulated H200, the first with a declared power limit of 450 W."""
    variant.rig["host"]["gpus"] = [{"name": "H200", "power_limit_w": 450}, {"name": "H200"}]
    yield variant
    variant.shell(
        f"systemctl disable -q --now {UNIT} 2>/dev/null; rm -f {PROGRAM} /etc/systemd/system/{UNIT} /run/cards.json "
        "/run/ignore-power-limits; systemctl daemon-reload"
    )


def deploy_gpu_setup(box: Deployment) -> Outcome:
    return box.run(script="tests/box/deploy_gpu_setup.py")


def power_limits(box: Deployment) -> list[float]:
    """Power limit of each card in W, as the stand-in reports it."""
    output = box.shell(f"{PROGRAM} --query-gpu=all").splitlines()
    return [float(line.split(", ")[12]) for line in output]


def failing(box: Deployment, report: Path) -> list[tuple[str, str]]:
    """Audit the cards; return check and found value of every finding that fails."""
    outcome = box.run("--data", "only=gpu,deploy", "--data", f"json={report}", script="tasks/audit.py")
    (host,) = json.loads(report.read_text())["hosts"]
    assert outcome.code == (0 if host["status"] == "clean" else 1), str(outcome)
    return [(item["check"], item["found"]) for item in host["findings"] if item["fails"]]


def test_a_power_limit_without_nvidia_smi_is_refused(cards: Deployment) -> None:
    refused = deploy_gpu_setup(cards)
    assert refused.code == 1
    assert "no nvidia-smi on this box: install the NVIDIA driver" in refused.output
    assert "Traceback" not in refused.output
    assert cards.shell(f"test -e /etc/systemd/system/{UNIT} || echo none") == "none"


def test_a_power_limit_is_set_survives_a_boot_and_is_reset_when_no_longer_declared(
    cards: Deployment, tmp_path: Path
) -> None:
    cards.write(PROGRAM, STAND_IN.read_text())
    cards.shell(f"chmod 755 {PROGRAM}")
    assert failing(cards, tmp_path / "report.json") == [("gpu.power", "700 W, persistence mode off")]
    first = deploy_gpu_setup(cards)
    assert (first.code, first.changed) == (0, [GPU_SETUP]), str(first)
    assert power_limits(cards) == [450, 700]
    assert deploy_gpu_setup(cards).changed == []
    assert failing(cards, tmp_path / "report.json") == []

    machine.down(cards.box)
    machine.up(cards.box)
    wait_for(lambda: power_limits(cards) == [450, 700], "the power limit after a boot")
    assert deploy_gpu_setup(cards).changed == []

    cards.shell(
        f"{PROGRAM} --id=GPU-abb3f99e-7dc8-fb04-7f9d-6c963a49df37 --power-limit=600; touch /run/ignore-power-limits"
    )
    assert failing(cards, tmp_path / "report.json") == [("gpu.power", "600 W")]
    not_applied = deploy_gpu_setup(cards)
    assert not_applied.code == 1
    assert "the cards do not have them" in not_applied.output
    cards.shell("rm /run/ignore-power-limits")
    assert deploy_gpu_setup(cards).changed == [GPU_SETUP]
    assert power_limits(cards) == [450, 700]

    cards.rig["host"]["gpus"][0]["power_limit_w"] = 150
    assert "NVIDIA H200 takes 200 to 700 W" in deploy_gpu_setup(cards).output
    assert power_limits(cards) == [450, 700]

    del cards.rig["host"]["gpus"][0]["power_limit_w"]
    assert deploy_gpu_setup(cards).changed == [GPU_SETUP]
    assert power_limits(cards) == [700, 700]
    assert cards.shell(f"test -e /etc/systemd/system/{UNIT} || echo none") == "none"
    assert deploy_gpu_setup(cards).changed == []
