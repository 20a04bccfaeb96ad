"""Ctrl-C while a job runs on the box: the command ends, with code 130, and says what goes on."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.box.deployment import wait_for
from tests.prepared_pyinfra import PYINFRA, ROOT
from tests.screens import boxes


def test_ctrl_c_says_what_goes_on_and_how_to_stop_it(tmp_path: Path) -> None:
    inventory = boxes.write_inventory(tmp_path, {"box": boxes.switching}, ("m",))
    log = tmp_path / "log"
    with log.open("wb") as output:
        deploy = subprocess.Popen(
            [PYINFRA, "-y", inventory, "deploy.py"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        wait_for(lambda: "waiting until it answers" in log.read_text(), "progress of the switch", timeout=120)
        deploy.send_signal(signal.SIGINT)
        assert deploy.wait(timeout=60) == 130, log.read_text()
    finally:
        deploy.kill()
        deploy.wait()
    said = log.read_text().partition("Interrupted.")[2]
    assert "Traceback" not in log.read_text()
    assert "@fake/box: what runs there goes on, and the next deploy finds it: " in said
    assert "waiting until it answers" in said
    assert "systemctl stop 'llamarig-job-switch-m_*'" in said
