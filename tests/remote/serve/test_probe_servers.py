"""The liveness probe with model servers that misbehave: none keeps another one from being probed.

tests/box/test_unit_lifecycle.py probes the real server, also one that hangs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from tests.remote.serve.switched_box import PACKAGE, SwitchedBox, wait_for

# The program as a box runs it, with another directory of unit files.
PROBE = """
import sys
from pathlib import Path
from llamarig.remote.serve import model_units, probe_servers
model_units.UNITS = Path(sys.argv[2])
probe_servers.main(Path(sys.argv[1]))
"""
GOOD = "llamarig-good.service"


def probe(box: SwitchedBox) -> str:
    """Probe the servers of a box once; return the output."""
    command = [sys.executable, "-B", "-c", PROBE, str(box.root / "state.json"), str(box.units)]
    done = subprocess.run(command, env=box.environment, cwd=PACKAGE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def state(box: SwitchedBox) -> dict[str, dict[str, object]]:
    """The stored state of each unit."""
    stored = json.loads((box.root / "state.json").read_text())
    return {process.split()[0]: known for process, known in stored.items()}


@pytest.fixture
def serving(box: SwitchedBox) -> SwitchedBox:
    box.serve(GOOD, "ok")
    return box


def serve_beside(box: SwitchedBox, unit: str, mode: str) -> None:
    """Start a second server, on a port of its own."""
    box.take_port()
    (box.units / unit).write_text(box.text(mode))
    box.systemctl("daemon-reload")
    box.systemctl("start", unit)
    wait_for(box.listens)


@pytest.mark.parametrize(
    "mode",
    [
        *("props-list", "props-number", "props-500", "props-redirect", "props-reset", "props-incomplete"),
        *("props-bad-status", "props-latin-1", "props-endless", "props-deep", "slots-object", "slots-of-nonsense"),
    ],
)
def test_an_odd_server_does_not_keep_another_from_being_probed(serving: SwitchedBox, mode: str) -> None:
    serve_beside(serving, "llamarig-a-first.service", mode)
    output = probe(serving)
    assert GOOD in state(serving)
    assert "Traceback" not in output
    assert "restarting" not in output


def test_an_unreadable_unit_does_not_keep_another_from_being_probed(serving: SwitchedBox) -> None:
    serve_beside(serving, "llamarig-a-first.service", "ok")
    (serving.units / "llamarig-a-first.service").unlink()
    assert "llamarig-a-first.service was not probed" in probe(serving)
    assert GOOD in state(serving)


def test_a_server_that_answers_a_byte_now_and_then_takes_no_time_from_the_others(serving: SwitchedBox) -> None:
    for name in ("a", "b", "c"):
        serve_beside(serving, f"llamarig-{name}.service", "health-drip")
    began = time.monotonic()
    probe(serving)
    assert time.monotonic() - began < 12, "three servers took 5 s each, one after another"
    assert GOOD in state(serving)


def test_a_model_whose_name_begins_like_a_jobs_is_probed(box: SwitchedBox) -> None:
    box.serve("llamarig-job-helper.service", "ok")
    box.serve("llamarig-job-switch-good_0a1b2c3d.service", "ok")
    probe(box)
    assert set(state(box)) == {"llamarig-job-helper.service"}


@pytest.mark.parametrize("damaged", ["", "{", "[1]", '{"llamarig-good.service 1": 7}'])
def test_a_damaged_state_file_is_replaced(serving: SwitchedBox, damaged: str) -> None:
    (serving.root / "state.json").write_text(damaged)
    probe(serving)
    assert set(state(serving)) == {GOOD}


def test_more_slots_than_llama_cpp_can_have_are_not_stored(box: SwitchedBox) -> None:
    box.serve(GOOD, "slots-many")
    probe(box)
    assert (box.root / "state.json").stat().st_size < 1 << 20


def test_a_server_that_no_longer_generates_is_restarted_after_three_rounds(box: SwitchedBox) -> None:
    box.serve(GOOD, "slots-stuck")
    outputs = [probe(box) for _ in range(4)]
    assert outputs[:3] == ["", "", ""]
    assert f"{GOOD} has completed nothing for 3 rounds although /health answers 200: restarting it" in outputs[3]
    assert state(box) == {}
    wait_for(box.answers)
