"""Cached facts of a run: each is read once, and again after an operation has changed the host."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from llamarig.engine.comparison_inputs import read_seen
from llamarig.engine.item import Commands, Query, query
from llamarig.engine.jobs import await_jobs
from llamarig.engine.refuse import while_answered
from llamarig.engine.run import of_host, read_all, read_fact, run
from llamarig.facts import fact_batch
from llamarig.facts.disk_use import DirectorySizes
from llamarig.facts.fact_batch import Answer, BatchOutput, FactBatch, Question
from llamarig.facts.files import Sha256Sums
from llamarig.records.plan_file import record_plan
from pyinfra.api.command import StringCommand
from pyinfra.api.operation import operation
from pyinfra.facts.rpm import RpmPackages
from pyinfra.facts.server import Command

from tests.engine.fake_run import HOST, commands_of, fake_run
from tests.items.converged_box import cpu_rig
from tests.placement.planned_box import planned


@operation()
def reads(fresh: bool = False) -> Commands:
    read_fact(Command, fresh=fresh, command="look")
    yield from ()


@operation()
def only_looks() -> Commands:
    run().only_looks = True
    yield from ()


@operation()
def changes(fresh: bool) -> Commands:
    read_fact(Command, command="look")
    yield StringCommand("change")
    read_fact(Command, fresh=fresh, command="look")


def test_a_run_that_changes_nothing_reads_once_a_stage() -> None:
    """Between the two stages pyinfra may have waited for its user to confirm."""
    assert commands_of((reads, {}), (reads, {}), (reads, {})) == ["look", "look"]


def test_a_run_that_only_looks_reads_once() -> None:
    assert commands_of((only_looks, {}), (reads, {}), (reads, {})) == ["look"]


def test_a_fact_is_read_again_after_an_operation_changed_the_host() -> None:
    prepared, *executed = commands_of((reads, {}), (changes, {"fresh": False}), (reads, {}))
    assert (prepared, executed) == ("look", ["look", "change", "look"])


def test_an_operation_can_read_what_it_has_changed_itself() -> None:
    _, *executed = commands_of((changes, {"fresh": True}))
    assert executed == ["look", "change", "look"]


def test_a_second_run_knows_nothing_of_the_first() -> None:
    """Cached facts are kept on pyinfra's objects, so they end with the run."""
    assert commands_of((only_looks, {}), (reads, {})) == ["look"]
    assert commands_of((reads, {})) == ["look", "look"]


def test_hosts_know_nothing_of_each_other() -> None:
    boxes = {"@fake/a": {"look": "a"}, "@fake/b": {"look": "b"}}
    with fake_run((reads, {}), hosts=boxes) as this:
        known = {name: [value for _, value in of_host(this.host(name)).facts.values()] for name in boxes}
        assert known == {"@fake/a": ["a"], "@fake/b": ["b"]}


ASKED: list[Query[Any]] = [
    query(Command, command="look"),
    query(Sha256Sums, paths=["/a"]),
    query(RpmPackages),
    query(Command, command="fails"),
]


@operation()
def reads_together() -> Commands:
    read_all(ASKED)
    assert read_fact(Command, command="look") == "found"
    assert read_fact(Sha256Sums, paths=["/a"]) == {"/a": "0" * 64}
    assert read_fact(RpmPackages) == {}
    read_fact(Command, command="fails")
    yield from ()


def test_many_facts_are_one_command_and_one_that_fails_is_read_alone() -> None:
    end = ["", "@@llamarig ok"]
    lines = [
        *("@@llamarig 0", "found", *end[1:]),  # its last line had no end
        *("@@llamarig 1", f"{'0' * 64}  /a", *end),
        *("@@llamarig 2", *end),
        *("@@llamarig 3", "half a reply", ""),
    ]
    commands = commands_of((reads_together, {}), replies={"@@llamarig": lines, "fails": "read alone"})
    assert len(commands) == 4
    assert [command for command in commands if command == "fails"] == ["fails"] * 2


@operation()
def reads_twice() -> Commands:
    read_all(ASKED)
    read_all([*ASKED, query(Command, command="another")])
    yield from ()


def test_what_is_known_is_not_read_again_and_one_fact_needs_no_batch() -> None:
    lines = [line for number in range(4) for line in (f"@@llamarig {number}", "", "@@llamarig ok")]
    assert len(commands_of((reads_twice, {}), replies={"@@llamarig": lines})) == 2, "one for each stage"


def test_equal_queries_are_of_one_command() -> None:
    assert query(Command, command="look") == query(Command, command="look")
    assert len({query(Sha256Sums, paths=["/a"]), query(Sha256Sums, paths=["/a"])}) == 1
    assert query(Sha256Sums, paths=["/a"]) != query(Sha256Sums, paths=["/b"])


def test_the_batch_runs_in_a_shell_as_each_command_would(tmp_path: Path) -> None:
    """Of a real shell: output without an end of line, a command that fails, and one that is not there."""
    (tmp_path / "a").write_text("a")
    queries: list[tuple[type[Any], dict[str, Any]]] = [
        (Command, {"command": "printf 'no end'"}),
        (Sha256Sums, {"paths": [f"{tmp_path}/a", f"{tmp_path}/none"]}),
        (Command, {"command": "echo half; exit 3"}),
        (RpmPackages, {}),
        (Command, {"command": "printf 'one\\n\\ntwo\\n'; cd /"}),
        (Command, {"command": "pwd"}),
    ]
    command = FactBatch().command(queries)
    output = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    found = FactBatch().process(output.splitlines()).lines
    assert found.keys() == {0, 1, 3, 4, 5}
    assert (found[0], found[4], found[5]) == (["no end"], ["one", "", "two"], [str(tmp_path)])
    assert Sha256Sums().process(found[1]) == {f"{tmp_path}/a": hashlib.sha256(b"a").hexdigest()}


def test_a_command_of_the_batch_that_does_not_end_is_ended_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO that nobody writes to, as a user may have it in place of a file; and one that ignores SIGTERM."""
    monkeypatch.setattr(fact_batch, "QUESTION_S", 1)
    os.mkfifo(tmp_path / "fifo")
    queries: list[tuple[type[Any], dict[str, Any]]] = [
        (Command, {"command": "echo before"}),
        (Command, {"command": f"echo half; cat {tmp_path}/fifo; echo more"}),
        (Command, {"command": f"trap '' TERM; cat {tmp_path}/fifo"}),
        (Command, {"command": "cat; echo after"}),  # stdin is no terminal that somebody could type at
    ]
    command = ["sh", "-c", FactBatch().command(queries)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sh:
        assert sh.stdout is not None
        found = FactBatch().process(sh.stdout.read().decode().splitlines())
    assert found == BatchOutput({0: ["before"], 3: ["after"]}, frozenset({1, 2}))
    left = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if f"{tmp_path}/fifo" in _content(path)]
    assert left == []


def test_a_command_that_not_even_sigkill_ends_is_late_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of nvidia-smi with a broken driver. A stand-in for timeout(1) that never returns takes the kernel's place."""
    monkeypatch.setattr(fact_batch, "QUESTION_S", -5)  # woken after 1 s
    timeout = tmp_path / "timeout"
    timeout.write_text("#!/bin/sh\ncase $(cat /dev/fd/3) in hangs) exec sleep 30;; *) echo fine;; esac\n")
    timeout.chmod(0o755)
    command = FactBatch().command([(Command, {"command": name}) for name in ("first", "hangs", "last")])
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    began = time.monotonic()
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment)
    assert time.monotonic() - began < 20, "it waited for what hangs"
    assert FactBatch().process(done.stdout.splitlines()) == BatchOutput({0: ["fine"], 2: ["fine"]}, frozenset({1}))


def test_a_question_alone_runs_in_a_shell_as_its_command_would_and_has_a_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fact_batch, "QUESTION_S", 1)
    os.mkfifo(tmp_path / "fifo")
    asked = {
        "printf 'no end'": Answer(["no end"]),
        "printf 'one\n\ntwo\n'": Answer(["one", "", "two"]),
        "true": Answer([]),
        "echo half; exit 3": Answer(None),
        f"echo half; cat {tmp_path}/fifo": Answer(None, late=True),
        f"trap '' TERM; cat {tmp_path}/fifo": Answer(None, late=True),
        "cat; echo after": Answer(["after"]),  # stdin is no terminal that somebody could type at
    }
    for command, answer in asked.items():
        question = Question().command(Command, {"command": command})
        with subprocess.Popen(["sh", "-c", question], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sh:
            assert sh.stdout is not None
            assert Question().process(sh.stdout.read().decode().splitlines()) == answer, command
    left = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if f"{tmp_path}/fifo" in _content(path)]
    assert left == []


def _content(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended
        return ""


@operation()
def reads_what_hangs() -> Commands:
    read_all(ASKED)
    yield from ()


def test_a_fact_that_does_not_end_is_one_message_of_its_host(caplog: pytest.LogCaptureFixture) -> None:
    lines = ["@@llamarig 0", "", "@@llamarig ok", "@@llamarig 1", "@@llamarig late", "@@llamarig 2", "@@llamarig late"]
    fine = ["@@llamarig 0", "", "@@llamarig ok", "@@llamarig 1", "", "@@llamarig ok", "@@llamarig 2", "@@llamarig ok"]
    boxes = {"@fake/hangs": {"@@llamarig": lines}, "@fake/fine": {"@@llamarig": fine}}
    with fake_run((reads_what_hangs, {}), hosts=boxes) as this:
        assert [bool(of_host(this.host(name)).unanswered) for name in boxes] == [True, False]
        messages = [record.getMessage() for record in caplog.records if "did not end" in record.getMessage()]
        assert len(messages) == 1
        assert "@fake/hangs" in messages[0]
        assert "reading its rpm packages, sha256 sums did not end within 60 s: a disk, a network mount" in messages[0]
        assert "on the box, then run this again" in messages[0]


@operation()
@while_answered
def changes_what_it_has_read() -> Commands:
    value = read_fact(Command, command="look")
    yield StringCommand(f"change {value}")
    value = read_fact(Command, fresh=True, command="look")
    yield StringCommand(f"change {value} again")


def test_nothing_is_changed_by_a_fact_that_alone_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    """As of a driver that begins to hang while a deploy changes the box."""
    late, answers = ["half", "@@question late"], {"@@question": "fine"}
    boxes: dict[str, dict[str, Any]] = {"@fake/hangs": {"look": late}, "@fake/fine": answers}
    with fake_run((changes_what_it_has_read, {}), (reads, {}), hosts=boxes) as this:
        assert this.failed == {"@fake/hangs"}
        assert not [command for command in this.commands_on("@fake/hangs") if "change" in command]
        assert this.commands_on("@fake/fine")[1:] == ["look", "change fine", "look", "change fine again", "look"]
        messages = [record.getMessage() for record in caplog.records if "did not end" in record.getMessage()]
        assert len(messages) == 1
        assert "@fake/hangs" in messages[0]
        assert "reading its command did not end within 60 s: a disk, a network mount or a driver may" in messages[0]


def test_a_fact_that_reads_a_whole_disk_has_a_deadline_of_its_own() -> None:
    command = Question().command(DirectorySizes, {"parents": ["/var"]})
    assert f"timeout -k 5 {DirectorySizes.ends_within_s} sh" in command
    assert f"sleep {DirectorySizes.ends_within_s + 6} &" in command


def test_a_box_that_no_longer_tells_of_its_jobs_fails_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """As where the disk of one begins to hang while a build runs."""
    done = 'job=build-a\nstatus={"state": "done", "message": "built"}'
    boxes: dict[str, dict[str, Any]] = {
        "@fake/hangs": {"build-a": ["@@question late"]},
        "@fake/fine": {"build-a": done},
    }
    with fake_run((waits, {}), hosts=boxes) as this:
        assert this.failed == {"@fake/hangs"}
    messages = [record.getMessage() for record in caplog.records if "did not end" in record.getMessage()]
    assert len(messages) == 1
    assert "reading its jobs did not end within 60 s" in messages[0]


@operation()
def waits() -> Commands:
    yield await_jobs({"build-a": "build a"}, poll_s=0.01)


@operation()
@while_answered
def asks_alone() -> Commands:
    read_fact(Command, command="fails")
    yield from ()


def test_a_fact_that_fails_alone_is_reported_by_pyinfra_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    replies = {"@@question": "@@question failed", "fails": {"success": False, "stderr": "why it failed"}}
    boxes: dict[str, dict[str, Any]] = {"@fake/a": replies, "@fake/b": {"look": "b"}}
    with fake_run((asks_alone, {}), hosts=boxes) as this:
        assert this.failed == {"@fake/a"}
    assert any("could not load fact: server.Command command=fails" in record.getMessage() for record in caplog.records)


@operation()
def plans_and_reads_again(path: str) -> Commands:
    """As one operation does that plans two models, of which the second must be compared with the first."""
    rig = cpu_rig(plan_file=path)
    before = read_seen(lambda rig, here: (), rig).here.plans.keys()
    model = f"model-{len(before)}"  # pyinfra calls an operation twice: to prepare it, and to run it
    record_plan(path, HOST, model, planned())
    assert read_seen(lambda rig, here: (), rig, fresh=True).here.plans.keys() == {*before, model}
    yield from ()


def test_a_plan_that_the_running_operation_has_written_is_read(tmp_path: Path) -> None:
    with fake_run((plans_and_reads_again, {"path": str(tmp_path / "plans.json")})) as this:
        assert not this.failed
