"""The tuner's program on a simulated box: samples in their order, and what served before serves again, whatever
happens."""

from __future__ import annotations

import random
import signal
import time

import pytest
from llamarig.remote.measure.search import CURRENT, concluded
from llamarig.remote.measure.tune_job import searches

from tests.remote.measure.tuned_box import TunedBox
from tests.remote.serve.switched_box import PEER, UNIT, SwitchedBox, wait_for


@pytest.fixture
def served(box: SwitchedBox) -> SwitchedBox:
    assert box.switch(box.text("ms-400")).startswith("done: ")
    return box


def test_the_screening_times_every_candidate_and_returns_to_what_served(served: SwitchedBox) -> None:
    before = (served.units / UNIT).read_text(), (served.records / f"{UNIT}.json").read_text()
    tuned = TunedBox(served, "screening", "ms-50", "ms-420", "ms-4000", "crashes")
    ended = tuned.run()
    assert ended.startswith("done: screening: "), ended
    assert f"{UNIT} serves again as before" in ended
    assert ended.endswith(", and answers")
    assert served.answers() == "ms-400"
    assert ((served.units / UNIT).read_text(), (served.records / f"{UNIT}.json").read_text()) == before
    assert served.left_over() == set()
    found = concluded(
        [one.sample for one in tuned.taken() if one.counts],
        searches("screening", ("ms-50", "ms-420", "ms-4000", "crashes"), 0.03)(),
    )
    assert found.is_complete
    assert found.candidates["ms-50"].samples == 2  # it looked better, and was timed again
    assert (found.candidates["ms-50"].faster or 0) > 1
    assert found.candidates["ms-4000"].remark == "given up: clearly slower"
    assert "ended while loading" in found.candidates["crashes"].remark


def test_finals_find_the_faster_one_and_stop_early(served: SwitchedBox) -> None:
    tuned = TunedBox(served, "finals", "ms-50", "ms-800")
    assert tuned.run().startswith("done: finals: ")
    samples = [one.sample for one in tuned.taken() if one.counts]
    found = concluded(samples, searches("finals", ("ms-50", "ms-800"), 0.03)())
    assert found.winner == "ms-50"
    assert found.differences["ms-800"].verdict == "not faster"
    names = [one.candidate for one in samples]
    assert names[:6] == [CURRENT, "ms-50", "ms-800", "ms-800", "ms-50", CURRENT]
    assert served.answers() == "ms-400"


def test_a_finished_stage_is_not_timed_again_and_nothing_is_restarted(served: SwitchedBox) -> None:
    tuned = TunedBox(served, "finals", "ms-50")
    assert tuned.run().startswith("done: ")
    pid, samples = served.pid(UNIT), tuned.samples.read_text()
    assert tuned.run().startswith("done: finals: ")
    assert served.pid(UNIT) == pid
    assert tuned.samples.read_text() == samples


def test_the_time_is_kept_to(served: SwitchedBox) -> None:
    tuned = TunedBox(served, "screening", "ms-50", "ms-60", "ms-70", minutes=0.02)
    ended = tuned.run()
    assert "not all: the time is over" in ended
    assert served.answers() == "ms-400"


def test_another_model_that_served_serves_again(box: SwitchedBox) -> None:
    box.serve(PEER, "ms-5")
    tuned = TunedBox(box, "screening", "ms-50")
    tuned.job["current"]["peers"] = [PEER]
    for candidate in tuned.job["candidates"]:
        candidate["job"]["peers"] = [PEER]
    assert tuned.run().startswith("done: ")
    assert box.answers() == "ms-5"
    assert not (box.units / UNIT).exists()


def test_a_current_unit_that_does_not_start_ends_the_tuning(served: SwitchedBox) -> None:
    tuned = TunedBox(served, "screening", "ms-50", current="crashes")
    ended = tuned.run()
    assert ended.startswith("failed: "), ended
    assert "ended while loading" in ended
    assert served.answers() == "ms-400"


@pytest.mark.parametrize("attempt", range(5))
def test_killed_at_a_random_moment_the_old_model_serves_and_the_next_run_goes_on(
    served: SwitchedBox, attempt: int
) -> None:
    chance = random.Random(attempt)
    tuned = TunedBox(served, "finals", "ms-50")
    running = tuned.start()
    time.sleep(chance.uniform(0.3, 4))
    running.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
    running.wait(timeout=60)
    served.restore()
    wait_for(lambda: served.answers() == "ms-400")
    assert served.left_over() == set()
    kept = [one.sample.run for one in tuned.taken() if one.counts]
    assert tuned.run().startswith("done: finals: ")
    again = [one.sample for one in tuned.taken() if one.counts]
    assert concluded(again, searches("finals", ("ms-50",), 0.03)()).winner == "ms-50"
    # Whole rounds of the first run are kept, and no round has samples of both.
    runs = [one.run for one in again]
    assert runs[: len(kept) - len(kept) % 2] == kept[: len(kept) - len(kept) % 2]
    assert all(runs[index] == runs[index + 1] for index in range(0, len(runs) - 1, 2))


def test_after_a_power_cut_the_old_model_serves(served: SwitchedBox) -> None:
    served.systemctl("enable", UNIT)
    tuned = TunedBox(served, "finals", "ms-50")
    running = tuned.start()
    wait_for(lambda: len(tuned.taken()) >= 2)
    running.kill()
    running.wait(timeout=60)
    served.boots()
    wait_for(lambda: served.answers() == "ms-400")
    assert served.left_over() == set()


def test_a_line_that_was_cut_off_is_taken_again(served: SwitchedBox) -> None:
    tuned = TunedBox(served, "finals", "ms-50")
    assert tuned.run().startswith("done: ")
    whole = tuned.samples.read_text()
    tuned.samples.write_text(whole[:-20])
    assert tuned.run().startswith("done: ")
    assert len(tuned.taken()) == len(whole.splitlines())


def test_the_samples_are_roots_alone(served: SwitchedBox) -> None:
    tuned = TunedBox(served, "finals", "ms-50")
    tuned.run()
    assert tuned.samples.stat().st_mode & 0o777 == 0o600
