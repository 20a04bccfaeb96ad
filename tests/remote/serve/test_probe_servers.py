"""The liveness probe with model servers that misbehave: none keeps another one from being probed.

tests/box/test_unit_lifecycle.py probes the real server, also one that hangs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest
from llamarig.remote.serve import probe_servers
from llamarig.remote.serve.switch_journal import journal_lock
from llamarig.render import layout
from llamarig.render.liveness_probe import service_text

from tests.remote.serve.switched_box import PACKAGE, UNIT, SwitchedBox, wait_for

# The program as a box runs it, with another directory of unit files.
PROBE = """
import re, sys
from pathlib import Path
from llamarig.remote.serve import model_units, probe_servers
model_units.UNITS, probe_servers.RECORDS = map(Path, sys.argv[2:])
probe_servers._LOCK_WAIT_S = 0.0
probe_servers.main(Path(sys.argv[1]))
# Not ru_maxrss: a program that was just started still has the peak of the process that started it there.
peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
Path(sys.argv[1]).with_name("peak").write_text(peak)
"""
GOOD = "llamarig-good.service"


def start_probe(box: SwitchedBox) -> subprocess.Popen[str]:
    """Begin a round."""
    command = [sys.executable, "-B", "-c", PROBE, str(box.root / "state.json"), str(box.units), str(box.records)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=box.environment, cwd=PACKAGE, stdout=pipe, stderr=pipe, text=True)


def probe(box: SwitchedBox) -> str:
    """Probe the servers of a box once; return the output."""
    return output_of(start_probe(box))


def output_of(round: subprocess.Popen[str]) -> str:
    """Wait for the end of a round."""
    output, errors = round.communicate(timeout=120)
    assert round.returncode == 0, errors
    return output


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


def test_large_answers_of_many_servers_stay_within_the_probes_memory(box: SwitchedBox) -> None:
    """Each becomes 160 MiB of Python's objects. A probe that the kernel ends looks after no server."""
    for name in ("a", "b", "c", "d", "e", "f"):
        serve_beside(box, f"llamarig-{name}.service", "slots-large")
    for _ in range(3):
        probe(box)
        (limit,) = re.findall(r"^MemoryMax=(\d+)M$", service_text([]), re.MULTILINE)
        assert int((box.root / "peak").read_text()) >> 10 < int(limit)
    assert len(state(box)) == 6


def test_a_server_that_no_longer_generates_is_restarted_after_three_rounds(box: SwitchedBox) -> None:
    box.serve(GOOD, "slots-stuck")
    outputs = [probe(box) for _ in range(4)]
    assert outputs[:3] == ["", "", ""]
    assert f"{GOOD} has completed nothing for 3 rounds although /health answers 200: restarting it" in outputs[3]
    assert state(box) == {}
    wait_for(box.answers)


def struck_twice(box: SwitchedBox, unit: str) -> None:
    """Two rounds have found that the unit's server hangs."""
    known = {f"{unit} {box.pid(unit)}": {"slots": None, "strikes": 2, "worked_at": None}}
    (box.root / "state.json").write_text(json.dumps(known))


def test_a_server_that_is_switched_while_a_round_waits_for_it_is_left_to_the_switch(box: SwitchedBox) -> None:
    """The owner deploys because it hangs; the stopped server's reset connection is the third strike."""
    box.serve(UNIT, "slots-silent")
    struck_twice(box, UNIT)
    waiting = start_probe(box)
    wait_for(lambda: "asked for its slots" in box.log())
    switching = box.start(box.text("hangs"))
    wait_for(lambda: box.status().get("step") == "loading the model")
    loading = box.pid(UNIT)
    assert "left alone in this round (a switch is under way)" in output_of(waiting)
    assert box.pid(UNIT) == loading, "the new server was restarted while it loads"
    switching.terminate()
    switching.wait(timeout=60)


def test_a_server_that_was_replaced_while_a_round_waited_for_it_is_not_restarted(box: SwitchedBox) -> None:
    box.serve(UNIT, "slots-silent")
    struck_twice(box, UNIT)
    waiting = start_probe(box)
    wait_for(lambda: "asked for its slots" in box.log())
    box.systemctl("restart", UNIT)
    by_hand = box.pid(UNIT)
    assert "restarting it" not in output_of(waiting)
    assert box.pid(UNIT) == by_hand


def test_nothing_is_restarted_while_an_interrupted_switch_waits_to_be_undone(box: SwitchedBox) -> None:
    box.serve(UNIT, "slots-stuck")
    before = box.pid(UNIT)
    (box.records / "switch-journal").touch()
    outputs = [probe(box) for _ in range(4)]
    assert "left alone in this round" in outputs[3]
    assert box.pid(UNIT) == before
    (box.records / "switch-journal").unlink()
    assert "restarting it" in probe(box), "it is restarted in a later round"
    assert box.pid(UNIT) != before


def test_an_open_server_is_stopped_once_no_switch_is_under_way(box: SwitchedBox) -> None:
    key = box.root / "key"
    key.write_text("sesame-0123456789\n")
    key.chmod(0o600)
    box.serve(UNIT, "open", "--api-key-file", str(key))
    before = box.pid(UNIT)
    with journal_lock(box.records):
        assert "so everyone can use it: left alone in this round (a switch is under way)" in probe(box)
    assert box.pid(UNIT) == before
    probe(box)
    assert box.pid(UNIT) == "0"


def test_the_lock_is_the_one_of_switches() -> None:
    assert str(probe_servers.RECORDS) == layout.PROOFS


def on_gpu(box: SwitchedBox, mode: str, layers: str = "99", devices: str = "DevicePolicy=closed") -> None:
    """Serve a model that is placed on a GPU."""
    (box.units / GOOD).write_text(box.text(mode, "--n-gpu-layers", layers) + devices + "\n")
    box.systemctl("daemon-reload")
    box.systemctl("restart", GOOD)
    wait_for(box.listens)


def test_a_server_that_found_no_gpu_is_restarted_once(box: SwitchedBox) -> None:
    on_gpu(box, "without-gpu")
    first = probe(box)
    assert f"{GOOD} serves from the CPU, although its model is placed on a GPU (warning: no usable GPU found" in first
    assert "restarting it" in first
    wait_for(box.listens)
    second, third = probe(box), probe(box)
    assert "also after a restart: see whether the driver works" in second
    assert third == "", "said once of a process"
    # Once the driver works, its next start is a good one.
    for log in (box.root / "logs").iterdir():
        log.unlink()
    on_gpu(box, "ok")
    assert probe(box) == ""
    assert state(box)[GOOD]["gpu"] == "found or not needed"


@pytest.mark.parametrize(("layers", "devices"), [("0", "DevicePolicy=closed"), ("99", "PrivateDevices=yes")])
def test_a_model_that_is_placed_in_ram_needs_no_gpu(box: SwitchedBox, layers: str, devices: str) -> None:
    on_gpu(box, "without-gpu", layers, devices)
    assert probe(box) == ""
