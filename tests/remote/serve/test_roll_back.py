"""The server from before a switch is restored after SIGTERM, after SIGKILL, at boot, and on a full disk."""

from __future__ import annotations

import fcntl
import signal

import pytest

from tests.remote.serve.switched_box import PEER, UNIT, SwitchedBox, wait_for


def test_the_old_unit_is_restored_on_a_full_disk(box: SwitchedBox) -> None:
    """No file can be written during the restore: neither the unit nor the status of the job."""
    old = box.serve(UNIT, "old")
    box.switch(box.text("crashes") + "# fills-the-disk\n")
    assert box.answers() == "old"
    assert (box.units / UNIT).read_text() == old


def test_a_restored_unit_file_is_the_one_that_was_proved(box: SwitchedBox) -> None:
    """Else the next deploy of the old declaration would restart it."""
    box.serve(UNIT, "old")
    before = (box.units / UNIT).stat().st_mtime_ns
    box.switch(box.text("crashes"))
    assert box.answers() == "old"
    assert (box.units / UNIT).stat().st_mtime_ns == before


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


def killed_while_loading(box: SwitchedBox) -> None:
    """A switch from the peer to a unit that has a start record of its own, killed while the new model loads."""
    box.record_start(PEER, box.serve(PEER, "peer"))
    box.systemctl("enable", PEER)
    (box.units / UNIT).write_text(box.text("unused"))
    box.record_start(UNIT, box.text("unused"))
    running = box.start(box.text("hangs", conflicts=PEER), peers=[PEER])
    wait_for(lambda: box.status().get("step") == "loading the model")
    running.kill()
    running.wait()
    assert box.answers() != "peer"


def test_what_served_before_a_killed_switch_serves_again_at_once(box: SwitchedBox) -> None:
    killed_while_loading(box)
    box.restore()
    wait_for(lambda: box.answers() == "peer")
    assert box.ended() == (f"failed: killed before it was finished; {PEER}, which served before, was started again")
    assert "--mode unused" in (box.units / UNIT).read_text()
    assert box.left_over() == set()


def test_a_killed_first_start_logs_no_more_than_others(box: SwitchedBox) -> None:
    killed_while_loading(box)
    drop_in = box.units / "runtime" / f"{UNIT}.d" / "llamarig-first-start.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.touch()
    box.restore()
    assert not drop_in.parent.exists()


def test_what_served_before_a_power_cut_serves_after_the_boot(box: SwitchedBox) -> None:
    killed_while_loading(box)
    box.systemctl("enable", UNIT)  # as a switch does just before its end
    box.systemctl("disable", PEER)
    box.boots()
    wait_for(lambda: box.answers() == "peer")
    assert "--mode unused" in (box.units / UNIT).read_text()
    assert box.left_over() == set()


def test_the_switch_after_a_killed_one_restores_the_other_model_that_served(box: SwitchedBox) -> None:
    """Where systemd could not run what follows a switch."""
    killed_while_loading(box)
    ended = box.switch(box.text("crashes", conflicts=PEER), peers=[PEER])
    assert f"{PEER} serves again as before" in ended, ended
    assert box.answers() == "peer"
    assert box.left_over() == set()


def test_a_switch_that_is_refused_after_a_killed_one_starts_what_served(box: SwitchedBox) -> None:
    killed_while_loading(box)
    ended = box.switch(box.text("new", conflicts=PEER), peers=[PEER], check=["/none"])
    assert ended.startswith("failed: /none is missing"), ended
    wait_for(lambda: box.answers() == "peer")


@pytest.mark.parametrize("content", ["", "{}", "[]", "not JSON", '{"unit": "llamarig-a.service"}'])
def test_a_journal_that_cannot_be_read_is_put_aside(box: SwitchedBox, content: str) -> None:
    assert box.switch(box.text("old")).startswith("done: ")
    old = (box.units / UNIT).read_text()
    journal = box.records / "switch-journal"
    for start in (box.restore, box.boots):
        journal.write_text(content)
        start()
        assert journal.with_name("switch-journal.unreadable").read_text() == content
        wait_for(lambda: box.answers() == "old")
        assert (box.answers(), (box.units / UNIT).read_text()) == ("old", old)
        assert not journal.exists()
    journal.write_text(content)
    ended = box.switch(box.text("new"))
    assert ended.startswith("done: "), ended
    assert box.answers() == "new"


def test_a_journal_of_a_switch_that_has_succeeded_restores_nothing(box: SwitchedBox) -> None:
    """Killed between its record and the end."""
    box.serve(UNIT, "old")
    running = box.start(box.text("hangs"))
    wait_for(lambda: box.status().get("step") == "loading the model")
    running.kill()
    running.wait()
    new = box.text("new")
    (box.units / UNIT).write_text(new)
    box.record_start(UNIT, new)
    box.restore()
    assert (box.units / UNIT).read_text() == new
    assert box.left_over() == set()


@pytest.mark.parametrize("held_s", [1.0, 60.0])
def test_a_switch_waits_for_a_restore_that_runs(box: SwitchedBox, held_s: float) -> None:
    box.serve(UNIT, "old")
    with (box.records / ".switch-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = box.start(box.text("new"))
        step = "waiting for what served before an interrupted switch to be restored"
        wait_for(lambda: box.status().get("step") == step or running.poll() is not None)
        if held_s > 1:
            running.wait(timeout=60)
    running.wait(timeout=60)
    expected = "failed: another switch is under way on this box" if held_s > 1 else f"done: {UNIT} answers"
    assert box.ended().startswith(expected), box.ended()


def test_a_restore_leaves_a_running_switch_alone(box: SwitchedBox) -> None:
    box.serve(UNIT, "old")
    running = box.start(box.text("hangs"))
    wait_for(lambda: box.status().get("step") == "loading the model")
    assert "a switch is under way" in box.restore()
    assert box.left_over() != set()
    running.terminate()
    running.wait(timeout=60)


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
