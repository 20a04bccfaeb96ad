"""The server from before a switch is restored after SIGTERM, after SIGKILL, and on a full disk."""

from __future__ import annotations

import signal

import pytest

from tests.remote.serve.switched_box import PEER, UNIT, SwitchedBox, wait_for


def test_the_old_unit_is_restored_on_a_full_disk(box: SwitchedBox) -> None:
    """No file can be written during the restore: neither the unit nor the status of the job."""
    old = box.serve(UNIT, "old")
    box.switch(box.text("crashes") + "# fills-the-disk\n")
    assert box.answers() == "old"
    assert (box.units / UNIT).read_text() == old


def test_a_switch_stopped_while_the_new_model_loads_restores_the_old_one(box: SwitchedBox) -> None:
    old = box.serve(UNIT, "old")
    running = box.start(box.text("hangs"))
    wait_for(lambda: box.status().get("step") == "loading the model")
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 0
    assert box.ended() == f"stopped: stopped before it was finished; {UNIT}, which served before, was started again"
    wait_for(lambda: box.answers() == "old")
    assert (box.units / UNIT).read_text() == old
    assert box.left_over() == set()


def test_a_switch_stopped_during_the_restore_starts_the_old_model(box: SwitchedBox) -> None:
    """SIGTERM comes while the old model loads."""
    box.serve(UNIT, "old")
    text = box.text("hangs")
    (box.units / UNIT).write_text(text)  # the restored unit never becomes ready
    running = box.start(box.text("crashes"))
    wait_for(lambda: box.status().get("step") == "loading the model" and (box.units / UNIT).read_text() == text)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 0
    assert box.ended().endswith("which served before, was started again")


def test_the_switch_after_a_killed_one_restores_the_other_model_that_served(box: SwitchedBox) -> None:
    box.record_start(PEER, box.serve(PEER, "peer"))
    running = box.start(box.text("hangs", conflicts=PEER), peers=[PEER])
    wait_for(lambda: box.status().get("step") == "loading the model")
    running.kill()
    running.wait()
    assert box.answers() != "peer"
    ended = box.switch(box.text("crashes", conflicts=PEER), peers=[PEER])
    assert f"{PEER} serves again as before" in ended, ended
    assert box.answers() == "peer"
    assert not (box.units / UNIT).exists(), "it never served"
    assert box.left_over() == set()


def test_a_killed_switch_to_a_unit_with_a_start_record_is_noticed_too(box: SwitchedBox) -> None:
    """Two units that exclude each other, both with start records; the switch to one is killed while it loads."""
    box.record_start(PEER, box.serve(PEER, "peer"))
    text = box.text("hangs", conflicts=PEER)
    (box.units / UNIT).write_text(text)
    box.record_start(UNIT, text)
    running = box.start(text, peers=[PEER])
    wait_for(lambda: box.status().get("step") == "loading the model")
    running.kill()
    running.wait()
    ended = box.switch(box.text("crashes", conflicts=PEER), peers=[PEER])
    assert f"{PEER} serves again as before" in ended, ended
    assert box.answers() == "peer"


def test_the_unit_that_answers_is_restored_rather_than_an_older_recorded_one(box: SwitchedBox) -> None:
    """Started by hand after a deploy that only installed it, so there is no record of this text."""
    box.record_start(UNIT, box.text("older"))
    text = box.serve(UNIT, "by-hand")
    ended = box.switch(box.text("crashes"))
    assert "serves again as before" in ended
    assert (box.answers(), (box.units / UNIT).read_text()) == ("by-hand", text)


@pytest.mark.parametrize("content", ["{}", "[]", "5", '{"text": 3}', "not JSON"])
def test_an_unreadable_start_record_does_not_fail_a_switch(box: SwitchedBox, content: str) -> None:
    box.serve(UNIT, "old")
    (box.records / f"{UNIT}.json").write_text(content)
    ended = box.switch(box.text("new"))
    assert ended.startswith("done: "), ended
