"""Pytest plugin: leave out the tests that this machine cannot run, say so in one line, and fail for it with CI=true."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from tests.abilities import abilities, left_out_markers

FAILS_WITH_CI = "with CI=true no test may be left out"
_OUTPUT = "llamarig_left_out"
_COUNTS = pytest.StashKey[Counter[str]]()


def sentence(counts: Counter[str]) -> str:
    """What was left out and why.

    :param counts: reason -> number of tests
    """
    parts = (f"{number} test{'s' if number > 1 else ''}, since {reason}" for reason, number in counts.items())
    return f"Left out: {'; '.join(parts)}."


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COUNTS] = Counter()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect them. Last, so that tests count that would have run otherwise."""
    if not any(item.get_closest_marker(marker) for item in items for marker in ("box", "vm")):
        return
    lacking = left_out_markers(abilities())

    def reason_of(item: pytest.Item) -> str:
        return next((reason for marker, reason in lacking.items() if item.get_closest_marker(marker)), "")

    left_out = [item for item in items if reason_of(item)]
    if left_out:
        config.stash[_COUNTS].update(map(reason_of, left_out))
        items[:] = [item for item in items if not reason_of(item)]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Of several processes, each collects all tests: what one has left out, all have."""
    counts = getattr(node, "workeroutput", {}).get(_OUTPUT)
    if counts:
        node.config.stash[_COUNTS] = Counter(counts)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config: Any = session.config
    counts = config.stash[_COUNTS]
    if hasattr(config, "workerinput"):
        config.workeroutput[_OUTPUT] = dict(counts)
    elif counts and os.environ.get("CI") == "true":
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    elif counts and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if counts := config.stash[_COUNTS]:
        failing = f" Failed for it: {FAILS_WITH_CI}." if os.environ.get("CI") == "true" else ""
        terminalreporter.ensure_newline()
        terminalreporter.write_line(sentence(counts) + failing)
