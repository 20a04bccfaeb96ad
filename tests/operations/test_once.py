"""A fact that several operations ask for: read once, and again when something may have become otherwise."""

from __future__ import annotations

import pytest
from pyinfra.api.command import StringCommand
from pyinfra.api.operation import operation
from pyinfra.facts.server import Command

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
        said = [closed_by(host.name, op_hash) for op_hash in state.ops[host]]
    assert said == [(ReleasesWhole, ModelFiles), ()]
