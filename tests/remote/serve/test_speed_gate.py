"""A release that is slower beyond doubt does not stay, and one of the two releases serves whatever happens.

server_stand_in.py stands in for llama-server: of mode ms-50, it says of each request that prompt and answer took 25 ms
each, so timings have no noise here, and fewer pairs of starts are enough. What noise does is tested with the statistics
(tests/remote/measure), and real releases are switched in tests/box/test_speed_gate.py.
"""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.remote.serve.switched_box import PEER, UNIT, SwitchedBox, wait_for

PROMPT, ANSWER = 64, 8


def gate(milliseconds: float = 0, limit: float = 0.05) -> dict[str, Any]:
    """:param milliseconds: of a request to the old release, by its last timing; 0 where there is none"""
    rates = [2000 * tokens / milliseconds if milliseconds else 0 for tokens in (PROMPT, ANSWER)]
    return {
        "limit": limit,
        "release": "0123456789abcdef",
        "prompt_tokens": PROMPT,
        "generated_tokens": ANSWER,
        "prompt_per_second": rates[0],
        "generation_per_second": rates[1],
    }


@pytest.fixture
def served(box: SwitchedBox) -> SwitchedBox:
    assert box.switch(box.text("ms-50")).startswith("done: ")
    return box


def starts(box: SwitchedBox) -> int:
    """How many servers were started."""
    return len(list((box.root / "logs").iterdir()))


def test_a_release_that_is_as_fast_is_started_once(served: SwitchedBox) -> None:
    ended = served.switch(served.text("ms-51"), gate=gate(50))
    assert ended.startswith(f"done: {UNIT} answers"), ended
    assert "its speed is 2510 and 314 tokens/s, before 2560 and 320 tokens/s (-2.0 %)" in ended
    assert (served.answers(), starts(served)) == ("ms-51", 2)
    assert served.left_over() == set()


def test_a_slower_release_is_compared_in_turn_and_the_old_one_serves_again(served: SwitchedBox) -> None:
    before = (served.units / UNIT).read_text(), (served.records / f"{UNIT}.json").read_text()
    ended = served.switch(served.text("ms-60"), gate=gate(50))
    assert ended.startswith(f"failed: {UNIT} is slower with this release than with 0123456789ab"), ended
    assert "by more than slower_than_percent = 5: in 3 pairs of starts its speed differed by -16.7 %" in ended
    assert f"{UNIT} serves again as before" in ended
    assert served.answers() == "ms-50"
    assert ((served.units / UNIT).read_text(), (served.records / f"{UNIT}.json").read_text()) == before
    assert served.left_over() == set()
    # The old and the new release, each three times, after the first start of each; and the restored one.
    assert starts(served) == 2 + 6 + 1


def test_the_restored_file_is_the_one_that_was_proved(served: SwitchedBox) -> None:
    """A deploy tells by the modification time that a server runs with its file as it is."""
    identity = (served.units / UNIT).stat().st_mtime_ns
    assert served.switch(served.text("ms-60"), gate=gate(50)).startswith("failed: ")
    assert (served.units / UNIT).stat().st_mtime_ns == identity


def test_a_refused_unit_is_not_stopped_for_again_until_the_limit_is_raised(served: SwitchedBox) -> None:
    assert served.switch(served.text("ms-60"), gate=gate(50)).startswith("failed: ")
    pid, count = served.pid(UNIT), starts(served)
    again = served.switch(served.text("ms-60"), gate=gate(50))
    assert again.startswith(f"failed: {UNIT} is slower with this release"), again
    assert again.endswith("to time it again; nothing was changed")
    assert (served.pid(UNIT), starts(served)) == (pid, count)
    raised = served.switch(served.text("ms-60"), gate=gate(50, limit=0.3))
    assert raised.startswith(f"done: {UNIT} answers"), raised
    assert "it looked slower than its last timing, and in 3 pairs of starts its speed differed by -16.7 %" in raised
    assert served.answers() == "ms-60"
    assert not list(served.records.glob("*.slower"))


def test_another_unit_of_the_model_is_timed_although_one_was_refused(served: SwitchedBox) -> None:
    assert served.switch(served.text("ms-60"), gate=gate(50)).startswith("failed: ")
    assert served.switch(served.text("ms-49"), gate=gate(50)).startswith("done: ")


def test_an_old_timing_that_was_too_good_refuses_nothing(served: SwitchedBox) -> None:
    ended = served.switch(served.text("ms-50.0"), gate=gate(45))
    assert ended.startswith(f"done: {UNIT} answers"), ended
    assert "it looked slower than its last timing, and in 3 pairs of starts its speed differed by +0.0 %" in ended


def test_without_a_timing_the_old_release_is_timed_before_it_is_stopped(served: SwitchedBox) -> None:
    ended = served.switch(served.text("ms-60"), gate=gate())
    assert ended.startswith(f"failed: {UNIT} is slower"), ended
    assert served.answers() == "ms-50"


def test_the_start_record_has_no_gate(served: SwitchedBox) -> None:
    """A rollback to this start would otherwise be compared with the release that it leaves."""
    assert served.switch(served.text("ms-49"), gate=gate(50)).startswith("done: ")
    assert "gate" not in json.loads((served.records / f"{UNIT}.json").read_text())["job"]


def test_the_first_start_of_a_model_and_one_in_place_of_another_are_not_compared(box: SwitchedBox) -> None:
    ended = box.switch(box.text("ms-60"), gate=gate(50))
    assert ended.startswith(f"done: {UNIT} answers"), ended
    assert "speed" not in ended
    other = box.switch(box.text("ms-80", conflicts=UNIT), name="switch-b", unit=PEER, peers=[UNIT], gate=gate(50))
    assert other.startswith(f"done: {PEER} answers"), other
    assert "speed" not in other


def test_where_the_old_release_does_not_start_again_the_new_one_stays(box: SwitchedBox) -> None:
    device = box.root / "device"
    device.touch()
    assert box.switch(box.text("ms-50", "--device-file", str(device))).startswith("done: ")
    device.unlink()
    ended = box.switch(box.text("ms-60"), gate=gate(50))
    assert ended.startswith(f"done: {UNIT} answers"), ended
    assert "its speed was not compared: the release before it did not start again" in ended
    assert box.answers() == "ms-60"
    assert box.left_over() == set()


@pytest.mark.parametrize("attempt", range(4))
def test_killed_at_a_random_moment_of_the_comparison_the_old_release_serves(served: SwitchedBox, attempt: int) -> None:
    chance = random.Random(attempt)
    before = (served.units / UNIT).read_text(), (served.units / UNIT).stat().st_mtime_ns
    running = served.start(served.text("ms-60"), gate=gate(50))
    wait_for(lambda: "timing" in str(served.status().get("step")) or running.poll() is not None)
    time.sleep(chance.uniform(0, 3))
    running.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
    running.wait(timeout=60)
    served.restore()
    wait_for(lambda: served.answers() == "ms-50")
    assert ((served.units / UNIT).read_text(), (served.units / UNIT).stat().st_mtime_ns) == before
    assert served.left_over() == set()
    assert served.switch(served.text("ms-49"), gate=gate(50)).startswith("done: ")


def test_after_a_power_cut_in_the_comparison_the_old_release_serves(served: SwitchedBox) -> None:
    running = served.start(served.text("ms-60"), gate=gate(50))
    wait_for(lambda: "pair 2 of" in str(served.status().get("step")))
    running.kill()
    running.wait(timeout=60)
    served.boots()
    wait_for(lambda: served.answers() == "ms-50")
    assert served.left_over() == set()


def test_a_refusal_that_cannot_be_read_refuses_nothing(served: SwitchedBox) -> None:
    Path(served.records / f"{UNIT}.slower").write_text("{")
    assert served.switch(served.text("ms-49"), gate=gate(50)).startswith("done: ")
