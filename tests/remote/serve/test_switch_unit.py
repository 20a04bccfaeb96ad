"""A switch checks the new server and succeeds or restores the old one, and two switches never run at the same time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.remote.serve.switched_box import PEER, SYSTEMCTL, UNIT, SwitchedBox, wait_for

KEY = "sesame-0123456789"
FAULTS = [
    ("crashes", "ended while loading (exit 1)"),
    ("props-500", "HTTP 500"),
    ("props-redirect", "HTTP 302"),
    ("props-reset", "Connection reset by peer"),
    ("props-incomplete", "IncompleteRead"),
    ("props-bad-status", "BadStatusLine"),
    ("props-no-json", "not JSON"),
    ("props-deep", "not JSON"),
    ("props-list", "not an object"),
    ("props-number", "not an object"),
    ("props-settings-list", "does not report its context"),
    ("completion-list", "not an object"),
    ("completion-timings", "answered a completion without a token"),
]


@pytest.mark.parametrize(("mode", "reason"), FAULTS)
def test_the_old_server_is_restored_after_any_fault_of_the_new_one(box: SwitchedBox, mode: str, reason: str) -> None:
    old = box.serve(UNIT, "old")
    ended = box.switch(box.text(mode))
    assert ended.startswith("failed: llamarig-a.service "), ended
    assert reason in ended
    assert f"{UNIT} serves again as before; it was away for " in ended
    assert box.answers() == "old"
    assert (box.units / UNIT).read_text() == old
    assert box.left_over() == set()


def test_a_failure_shows_what_this_start_has_logged(box: SwitchedBox) -> None:
    """Not what an earlier one has, whatever the clock says; and also the lines that journald has not read yet."""
    box.serve(UNIT, "crashed-before")
    box.switch(box.text("crashes"))
    lines = box.status()["lines"]
    assert lines == ["CUDA error: out of memory (so this stand-in says)"]
    box.switch(box.text("props-500"))
    assert box.status()["lines"] == ["main: model loaded"]


def test_a_check_of_flags_that_hangs_in_the_driver_ends_the_switch(box: SwitchedBox) -> None:
    """A child that keeps the output open stands for a process that the kernel does not let be killed."""
    old = box.serve(UNIT, "old")
    box.more_environment = {"LLAMARIG_FLAGS_S": "1"}
    ended = box.switch(box.text("new"), check=["/bin/sh", "-c", "sleep 40 & sleep 40"])
    assert ended.startswith("failed: llama-server --help of this build did not end within 1 s"), ended
    assert ended.endswith("nothing was changed")
    assert (box.answers(), (box.units / UNIT).read_text()) == ("old", old)


def test_a_server_has_not_ended_where_systemd_does_not_answer_for_a_while(box: SwitchedBox) -> None:
    """Regression: a switch was undone because systemd reloaded for longer than systemctl waits."""
    silent = box.root / "silent"
    box.program(
        "systemctl",
        f'test "$1" = start && printf xxx >{silent}\n'
        f'if test "$1" = show && test -s {silent}; then printf %s "$(cut -c2- {silent})" >{silent}; exit 1; fi\n'
        f"{SYSTEMCTL}",
    )
    box.serve(UNIT, "old")
    silent.unlink()
    ended = box.switch(box.text("new"))
    assert ended.startswith(f"done: {UNIT} answers"), ended
    assert silent.read_text() == ""


def test_a_successful_switch_records_its_start_and_deletes_its_notes(box: SwitchedBox) -> None:
    box.record_start(UNIT, box.serve(UNIT, "old"))
    ended = box.switch(box.text("new"))
    assert ended.startswith(f"done: {UNIT} answers"), ended
    assert box.answers() == "new"
    assert box.left_over() == set()
    assert "--mode old" in json.loads((box.records / f"{UNIT}.previous.json").read_text())["text"]
    assert "--mode new" in json.loads((box.records / f"{UNIT}.json").read_text())["text"]


@pytest.mark.parametrize(("mode", "starts"), [("new", [UNIT]), ("crashes", [PEER])])
def test_of_models_that_exclude_each_other_the_declared_one_alone_starts_at_boot(
    box: SwitchedBox, mode: str, starts: list[str]
) -> None:
    """Only once it has answered; which of two a boot would start is chance."""
    box.serve(PEER, "peer")
    box.systemctl("enable", PEER)
    box.switch(box.text(mode, conflicts=PEER), peers=[PEER])
    assert box.enabled() == starts


def test_a_switch_to_a_model_that_is_not_the_default_leaves_the_default_enabled(box: SwitchedBox) -> None:
    box.serve(PEER, "peer")
    box.systemctl("enable", PEER)
    assert box.switch(box.text("new", conflicts=PEER), peers=[PEER], enable=False).startswith("done: ")
    assert box.enabled() == [PEER]


def test_a_start_record_identifies_the_unit_file_and_the_start(box: SwitchedBox) -> None:
    """Deploys tell by them, and not by times, whether the server runs with its file as it is."""
    box.serve(UNIT, "old")
    box.switch(box.text("new"), inputs="0a1b")
    record = json.loads((box.records / f"{UNIT}.json").read_text())
    # As `stat` prints it for the fact Units.
    stat = subprocess.run(["stat", "-c", "%.9Y", str(box.units / UNIT)], capture_output=True, text=True).stdout.strip()
    assert record["unit_file"] == stat
    # The stand-in's id of a start is its process.
    assert f"MainPID={record['invocation']}" in box.systemctl("show", UNIT).splitlines()
    assert record["job"]["inputs"] == "0a1b"


def test_an_unexpected_error_restores_the_old_server(box: SwitchedBox) -> None:
    """A path that no file can have raises ValueError after the old model was stopped."""
    box.serve(UNIT, "old")
    ended = box.switch(box.text("new"), proof=str(box.records / "a\0.json"))
    assert "failed: ValueError: " in ended, ended
    assert "serves again as before" in ended
    assert box.answers() == "old"
    assert "Traceback" in (box.root / "output").read_text(), "it is needed to fix the bug"


def test_nothing_is_changed_when_what_serves_cannot_be_saved(box: SwitchedBox) -> None:
    """A directory in place of the copy makes writing fail, as a full disk would."""
    old = box.serve(UNIT, "old")
    (box.units / f"{UNIT}.llamarig-before").mkdir()
    ended = box.switch(box.text("new"))
    assert ended.startswith("failed: what serves now cannot be saved"), ended
    assert ended.endswith("nothing was changed")
    assert (box.answers(), (box.units / UNIT).read_text()) == ("old", old)


def loading(box: SwitchedBox, **job: Any) -> subprocess.Popen[bytes]:
    """A switch to a model that loads and never answers."""
    running = box.start(box.text("hangs"), **job)
    wait_for(lambda: box.status().get("step") == "loading the model")
    return running


@pytest.mark.parametrize("owner", ["anna@laptop", "ben@desktop"])
def test_another_switch_is_refused_in_words_while_one_is_under_way(box: SwitchedBox, owner: str) -> None:
    old = box.serve(UNIT, "old")
    running = loading(box)
    assert box.start(box.text("new"), name="switch-b", owner=owner).wait(timeout=60) == 1
    for words in ("the switch of model a by anna@laptop is running on this box since 20", "--data takeover=1"):
        assert words in box.answer()
    assert "systemctl stop 'llamarig-job-switch-a_*'" in box.answer()
    running.terminate()
    running.wait(timeout=60)
    wait_for(lambda: box.answers() == "old")
    assert (box.units / UNIT).read_text() == old


def test_the_same_switch_started_twice_continues_and_keeps_its_status(box: SwitchedBox) -> None:
    """The later program exits, and both deploys, also two people's, watch the earlier."""
    box.serve(UNIT, "old")
    running = loading(box)
    assert box.start(box.text("hangs"), owner="ben@desktop").wait(timeout=60) == 1
    assert box.answer() == ""
    assert box.status().get("state") == "running"
    box.restore()  # systemd does that after the later program
    assert box.status().get("state") == "running"
    assert box.answers() == "hangs", "the old server was started in place of the one that loads"
    running.terminate()
    running.wait(timeout=60)
    assert box.ended().startswith("stopped: ")
    wait_for(lambda: box.answers() == "old")


def test_a_switch_is_taken_over_on_request(box: SwitchedBox) -> None:
    """What served before the other one is restored first, and this one then replaces it."""
    box.serve(UNIT, "old")
    running = loading(box)
    # `systemctl stop` of a transient unit.
    box.program("systemctl", f'case "$2" in llamarig-job-*) kill {running.pid}; exit;; esac; {SYSTEMCTL}')
    ended = box.switch(box.text("new"), owner="ben@desktop", takeover=True)
    running.wait(timeout=60)
    assert ended.startswith(f"done: {UNIT} answers"), ended
    assert box.answers() == "new"
    assert box.left_over() == set()


def test_nothing_is_changed_when_systemd_does_not_answer(box: SwitchedBox) -> None:
    old = box.serve(UNIT, "old")
    box.program("systemctl", "exit 1")
    ended = box.switch(box.text("new"))
    assert ended == f"failed: systemd does not report whether {UNIT} serves (systemctl show); nothing was changed"
    box.mend_systemctl()
    assert (box.answers(), (box.units / UNIT).read_text()) == ("old", old)


def test_a_failed_daemon_reload_records_no_start(box: SwitchedBox) -> None:
    """systemd would start the old text, and the new one would be recorded as started."""
    old = box.serve(UNIT, "old")
    box.break_systemctl("daemon-reload")
    ended = box.switch(box.text("new"))
    assert f"systemd does not reload {UNIT} (systemctl daemon-reload failed)" in ended
    assert "serves again as before" not in ended, "after a failed reload this is not known"
    assert (box.answers(), (box.units / UNIT).read_text()) == ("old", old)
    assert not (box.records / f"{UNIT}.json").exists()


# --- API keys -------------------------------------------------------------------------------------------------------


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"# a comment\n{KEY}\n")
    path.chmod(0o600)
    return path


def test_a_server_with_an_api_key_is_checked_without_and_with_it(box: SwitchedBox, key_file: Path) -> None:
    ended = box.switch(box.text("new", "--api-key-file", str(key_file)), api_key_file=str(key_file))
    assert ended.startswith("done: "), ended
    assert (box.answers(), box.answers(KEY)) == ("", "new")


@pytest.mark.parametrize(
    ("mode", "has_key_file", "reason"),
    [
        ("new", False, "answers a request without the API key, so anyone's"),
        ("open", True, "answers a request without the API key, so anyone's"),
        ("forbidden", True, "does not refuse a request without the API key with HTTP 401 (HTTP 403"),
    ],
)
def test_a_server_that_does_not_check_the_key_is_not_switched_to(
    box: SwitchedBox, key_file: Path, mode: str, has_key_file: bool, reason: str
) -> None:
    box.serve(UNIT, "old")
    flags = ["--api-key-file", str(key_file)] if has_key_file else []
    ended = box.switch(box.text(mode, *flags), api_key_file=str(key_file))
    assert reason in ended
    assert box.answers() == "old"
    assert KEY not in (box.root / "output").read_text() + ended


@pytest.mark.parametrize("content", [None, b"", b"# none\n\n", b"\xef\xbb\xbf" + KEY.encode(), KEY.encode() + b"\r\n"])
def test_nothing_is_changed_without_a_usable_key(box: SwitchedBox, key_file: Path, content: bytes | None) -> None:
    old = box.serve(UNIT, "old")
    process = box.systemctl("show", UNIT)
    key_file.unlink()
    if content is not None:
        key_file.write_bytes(content)
        key_file.chmod(0o600)
    ended = box.switch(box.text("new", "--api-key-file", str(key_file)), api_key_file=str(key_file))
    assert ended.startswith(f"failed: api_key_file {key_file} "), ended
    assert ended.endswith("nothing was changed")
    assert KEY not in ended
    assert (box.systemctl("show", UNIT), (box.units / UNIT).read_text()) == (process, old)


def test_the_long_prompt_has_as_many_tokens_as_the_context_takes(box: SwitchedBox) -> None:
    """Regression: with a tokenizer that has a token for each letter, a context of 4,096 failed its own check."""
    assert box.switch(box.text("letter-tokens"), context_per_slot=4096).startswith("done: llamarig-a.service answers")


def test_a_declared_web_ui_must_be_there(box: SwitchedBox) -> None:
    ended = box.switch(box.text("no-pages"), web_ui=True)
    assert "has no web UI at /, and web_ui=True is declared" in ended, ended
    assert box.switch(box.text("new"), web_ui=True).startswith("done: ")
    assert box.switch(box.text("no-pages"), web_ui=False).startswith("done: ")
