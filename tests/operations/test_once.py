"""A fact that several operations ask for: read once, and again when something may have become otherwise."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from pyinfra.api.command import StringCommand
from pyinfra.api.operation import operation
from pyinfra.facts.rpm import RpmPackages
from pyinfra.facts.server import Command

from tasks.facts.files import Sha256Sums
from tasks.facts.together import Asked, Together
from tasks.operations import Commands, closed_by, closes, once
from tasks.planning.checks.llama_cpp import ModelFiles, ReleasesWhole
from tests.operations.fake_run import run_of, told


@operation()
def looks(fresh: bool = False) -> Commands:
    once.read_once(Command, fresh=fresh, command="look")
    yield from ()


@operation()
def changes(fresh: bool) -> Commands:
    once.read_once(Command, command="look")
    yield StringCommand("change")
    once.read_once(Command, fresh=fresh, command="look")


@operation()
@closes(ReleasesWhole, ModelFiles)
def mends() -> Commands:
    yield StringCommand("change")


def test_a_run_that_changes_nothing_reads_once_a_stage() -> None:
    """Between the two stages pyinfra may have waited for its owner's yes."""
    assert told((looks, {}), (looks, {}), (looks, {})) == ["look", "look"]


def test_a_run_that_only_looks_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(once._RUN, "only looks", False)
    once.only_looking()
    assert told((looks, {}), (looks, {})) == ["look"]


def test_what_an_operation_has_changed_is_read_again() -> None:
    prepared, *executed = told((looks, {}), (changes, {"fresh": False}), (looks, {}))
    assert (prepared, executed) == ("look", ["look", "change", "look"])


def test_an_operation_that_asks_for_it_sees_what_it_did_itself() -> None:
    _, *executed = told((changes, {"fresh": True}))
    assert executed == ["look", "change", "look"]


def test_an_operation_says_whose_findings_it_closes() -> None:
    with run_of((mends, {}), (looks, {})) as (state, _):
        (host,) = list(state.inventory)
        said = [closed_by(host, op_hash) for op_hash in state.ops[host]]
    assert said == [(ReleasesWhole, ModelFiles), ()]


@operation()
def asks_together() -> Commands:
    once.read_together(
        [
            (Command, {"command": "look"}),
            (Sha256Sums, {"paths": ["/a"]}),
            (RpmPackages, {}),
            (Command, {"command": "fails"}),
        ]
    )
    assert once.read_once(Command, command="look") == "seen"
    assert once.read_once(Sha256Sums, paths=["/a"]) == {"/a": "0" * 64}
    assert once.read_once(RpmPackages) == {}
    once.read_once(Command, command="fails")
    yield from ()


def test_many_facts_are_one_command_and_one_that_fails_is_asked_for_by_itself() -> None:
    ended = ["", "@@llamarig ok"]
    answers = [
        *("@@llamarig 0", "seen", *ended[1:]),  # its last line had no end
        *("@@llamarig 1", f"{'0' * 64}  /a", *ended),
        *("@@llamarig 2", *ended),
        *("@@llamarig 3", "half an answer", ""),
    ]
    commands = told((asks_together, {}), responses={"@@llamarig": answers, "fails": "asked for by itself"})
    assert len(commands) == 4
    assert [command for command in commands if command == "fails"] == ["fails"] * 2


def test_the_one_command_runs_in_a_shell_as_the_many_would(tmp_path: Path) -> None:
    """The shell's own words: one without an end of line, one that fails, one whose program is not there."""
    (tmp_path / "a").write_text("a")
    asked: list[Asked] = [
        (Command, {"command": "printf 'no end'"}),
        (Sha256Sums, {"paths": [f"{tmp_path}/a", f"{tmp_path}/none"]}),
        (Command, {"command": "echo half; exit 3"}),
        (RpmPackages, {}),
        (Command, {"command": "printf 'one\\n\\ntwo\\n'; cd /"}),
        (Command, {"command": "pwd"}),
    ]
    command = Together().command(asked)
    output = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    said = Together().process(output.splitlines())
    assert said.keys() == {0, 1, 3, 4, 5}
    assert (said[0], said[4], said[5]) == (["no end"], ["one", "", "two"], [str(tmp_path)])
    assert Sha256Sums().process(said[1]) == {f"{tmp_path}/a": hashlib.sha256(b"a").hexdigest()}
