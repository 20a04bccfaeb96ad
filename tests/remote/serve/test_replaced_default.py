"""A switch between two models that exclude each other: the other's file and what starts at boot are part of it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
from llamarig.remote.serve import switch_journal
from llamarig.remote.shared.jobs import StartRecord
from llamarig.remote.shared.server_client import Server, arguments_of

from tests.remote.serve.switched_box import PEER, UNIT, SwitchedBox, wait_for


@pytest.fixture
def former(box: SwitchedBox) -> SwitchedBox:
    """The peer serves, proved and enabled; the other one is the declared default now."""
    box.record_start(PEER, box.serve(PEER, "peer"))
    box.systemctl("enable", PEER)
    return box


def switch(box: SwitchedBox, mode: str) -> str:
    return box.switch(box.text(mode, conflicts=PEER), peers=[PEER])


def killed_while_loading(box: SwitchedBox) -> None:
    running = box.start(box.text("hangs", conflicts=PEER), peers=[PEER])
    wait_for(lambda: box.status().get("step") == "loading the model")
    running.kill()
    running.wait()


def test_only_the_new_default_starts_at_boot(former: SwitchedBox) -> None:
    ended = switch(former, "new")
    assert ended.startswith("done: "), ended
    assert former.enabled() == [UNIT]
    former.boots()
    wait_for(lambda: former.answers() == "new")


def test_a_power_cut_while_the_new_default_loads_boots_the_old_one(former: SwitchedBox) -> None:
    killed_while_loading(former)
    former.boots()
    wait_for(lambda: former.answers() == "peer")
    assert former.enabled() == [PEER]


@pytest.mark.parametrize("command", ["enable", "disable"])
def test_a_switch_fails_where_systemd_does_not_change_what_starts_at_boot(former: SwitchedBox, command: str) -> None:
    former.break_systemctl(command)
    ended = switch(former, "new")
    assert f"(systemctl {command} failed); " in ended
    if command == "enable":
        assert f"{PEER} serves again as before" in ended
    else:
        assert f"{UNIT} still starts at boot (systemctl disable failed); {PEER} was started again" in ended
        assert "switch-journal" in former.left_over()
    former.mend_systemctl()
    former.restore()
    assert (former.answers(), former.enabled()) == ("peer", [PEER])


def test_a_restore_that_cannot_enable_the_old_default_keeps_its_journal(former: SwitchedBox) -> None:
    killed_while_loading(former)
    former.systemctl("disable", PEER)
    former.break_systemctl("enable")
    assert f"{PEER} does not start at boot (systemctl enable failed)" in former.restore(code=2)
    assert "switch-journal" in former.left_over()
    former.mend_systemctl()
    former.restore()
    assert former.enabled() == [PEER]
    assert former.left_over() == set()


# --- the other model's unit file --------------------------------------------------------------------------------------


def test_an_active_unit_is_given_no_other_text_without_a_switch(former: SwitchedBox) -> None:
    old = (former.units / PEER).read_text()
    ended = former.switch(former.text("crashes"), name="switch-b", unit=PEER, start=False, enable=False)
    assert ended.startswith(f"failed: {PEER} was started since it was compared"), ended
    assert (former.units / PEER).read_text() == old


def test_a_unit_that_does_not_run_is_installed_and_said_to_be_unproved(box: SwitchedBox) -> None:
    unproved = "It has not answered a prompt yet: run deploy.py after that"
    installed = f"done: {UNIT} installed; `systemctl start {UNIT}` switches to it"
    ended = box.switch(box.text("new"), start=False)
    assert ended.startswith(installed)
    assert unproved in ended
    assert not (box.records / f"{UNIT}.json").exists()
    box.record_start(UNIT, box.text("new"))
    assert box.switch(box.text("new"), start=False) == installed


@pytest.fixture
def half_replaced(box: SwitchedBox) -> tuple[SwitchedBox, str]:
    """The peer serves, and its file has been replaced since: by hand, or by an earlier version before its switch."""
    old = box.text("peer")
    check = [*shlex.split(old.partition("ExecStart=")[2]), "--help"]
    ended = box.switch(old, name="switch-b", unit=PEER, check=check)
    assert ended.startswith("done: "), ended
    (box.units / PEER).write_text(box.text("crashes"))
    box.systemctl("daemon-reload")
    return box, old


def test_the_other_model_returns_with_the_text_that_it_served_with(half_replaced: tuple[SwitchedBox, str]) -> None:
    box, old = half_replaced
    identity = json.loads((box.records / f"{PEER}.json").read_text())["unit_file"]
    assert f"{PEER} serves again as before" in switch(box, "crashes")
    assert (box.answers(), (box.units / PEER).read_text()) == ("peer", old)
    seconds, nanoseconds = identity.split(".")
    assert (box.units / PEER).stat().st_mtime_ns == int(seconds + nanoseconds), "a deploy would restart it"
    assert box.left_over() == set()


def test_the_other_model_boots_with_the_text_that_it_served_with(half_replaced: tuple[SwitchedBox, str]) -> None:
    box, old = half_replaced
    killed_while_loading(box)
    box.boots()
    wait_for(lambda: box.answers() == "peer")
    assert (box.units / PEER).read_text() == old
    assert box.left_over() == set()


def test_the_other_model_returns_with_its_proved_text_also_after_a_boot(half_replaced: tuple[SwitchedBox, str]) -> None:
    """That is another start than the recorded one, and its file has been replaced since: it has never answered."""
    box, old = half_replaced
    (box.units / PEER).write_text(old)
    box.boots()
    wait_for(lambda: box.answers() == "peer")
    (box.units / PEER).write_text(box.text("crashes"))
    box.systemctl("daemon-reload")
    assert f"{PEER} serves again as before" in switch(box, "crashes")
    assert (box.answers(), (box.units / PEER).read_text()) == ("peer", old)


def test_a_start_with_a_credential_is_known_by_its_command_line() -> None:
    """The unit names the copy that systemd makes, and the check of its flags the file itself."""
    key, copy = "/etc/llamarig/keys/api", f"/run/credentials/{PEER}/api-key"
    program = [sys.executable, "-c", "import time; time.sleep(60)", "--api-key-file"]
    text = f"[Service]\nExecStart=python --api-key-file {copy}\nLoadCredential=api-key:{key}\n"
    record = StartRecord.from_stored({"text": text, "job": {"check": [*program, key, "--help"]}, "invocation": "one"})
    with subprocess.Popen([*program, copy]) as process:
        state = {"MainPID": str(process.pid), "InvocationID": "another"}
        # The kernel closes our end of the pipe, for which Popen waits, before it sets the command line.
        wait_for(lambda: copy in arguments_of(state["MainPID"]))
        assert switch_journal._is_recorded_start(PEER, record, state, "[Service]\nExecStart=python\n")
        assert not switch_journal._is_recorded_start(PEER, record, state, f"# as good\n{text}")
        process.kill()


def test_the_other_model_returns_as_it_was_started_by_hand(half_replaced: tuple[SwitchedBox, str]) -> None:
    """It answers, although with another text than the recorded one."""
    box, _ = half_replaced
    box.systemctl("stop", PEER)
    by_hand = box.serve(PEER, "by-hand")
    assert f"{PEER} serves again as before" in switch(box, "crashes")
    assert (box.answers(), (box.units / PEER).read_text()) == ("by-hand", by_hand)


# --- journals and records ---------------------------------------------------------------------------------------------


def test_the_journal_of_an_earlier_version_is_undone(former: SwitchedBox) -> None:
    """Without texts of the other units."""
    old = former.text("unused", conflicts=PEER)
    (former.units / UNIT).write_text(former.text("hangs", conflicts=PEER))
    former.systemctl("daemon-reload")
    former.systemctl("start", UNIT)
    units = [
        {"unit": UNIT, "served": False, "enabled": False},
        {"unit": PEER, "served": True, "enabled": True},
    ]
    journal = {"unit": UNIT, "text": old, "unit_file": "1795269800.000000005", "record": None, "units": units}
    (former.records / "switch-journal").write_text(json.dumps({**journal, "load_timeout_s": 15, "port": former.port}))
    former.restore()
    wait_for(lambda: former.answers() == "peer")
    assert (former.units / UNIT).read_text() == old
    assert former.left_over() == set()


def test_a_record_that_cannot_be_read_is_no_end_of_a_switch(box: SwitchedBox) -> None:
    """A directory in its place stands for a failing disk."""
    old = box.serve(UNIT, "old")
    box.record_start(UNIT, old)
    running = box.start(box.text("hangs"))
    wait_for(lambda: box.status().get("step") == "loading the model")
    running.kill()
    running.wait()
    record = box.records / f"{UNIT}.json"
    record.unlink()
    record.mkdir()
    box.restore()
    assert (box.units / UNIT).read_text() == old
    wait_for(lambda: box.answers() == "old")
    assert box.switch(box.text("new")) == (
        f"failed: what serves now cannot be read (Is a directory: {record}); nothing was changed"
    )


KILLED = """
import os, signal, sys

def killed(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith({name!r}):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(killed)
"""


def previous(box: SwitchedBox) -> str:
    text: str = json.loads((box.records / f"{UNIT}.previous.json").read_text())["text"]
    return text


def test_the_way_back_is_replaced_only_by_a_switch_that_succeeds(box: SwitchedBox) -> None:
    """Killed while it records the start, before and after the new record is there."""
    (box.records / f"{UNIT}.previous.json").write_text(json.dumps({"text": "oldest", "job": {}}))
    old = box.serve(UNIT, "old")
    box.record_start(UNIT, old)
    fault = box.root / "fault.py"
    for killed_before, expected in ((f"{UNIT}.json", "oldest"), (f"{UNIT}.previous.json", old)):
        fault.write_text(KILLED.format(name=killed_before))
        box.more_environment = {"LLAMARIG_FAULT": str(fault)}
        box.start(box.text("new")).wait(timeout=60)
        box.more_environment = {}
        assert (box.records / f"{UNIT}.replaced").exists(), "it was not killed in between"
        box.restore()
        assert previous(box) == expected
        assert not (box.records / f"{UNIT}.replaced").exists()


def test_a_model_that_was_just_restored_returns_as_it_was_started_by_hand(
    half_replaced: tuple[SwitchedBox, str],
) -> None:
    """It is still loading when the next switch looks at what serves."""
    box, _ = half_replaced
    box.systemctl("stop", PEER)
    by_hand = box.serve(PEER, "loads-slowly")
    wait_for(Server(f"http://127.0.0.1:{box.port}", None).is_healthy)
    killed_while_loading(box)
    assert f"{PEER} serves again as before" in switch(box, "crashes")
    assert (box.answers(), (box.units / PEER).read_text()) == ("loads-slowly", by_hand)
