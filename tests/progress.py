"""What a long test run shows: the files that run now, each file as it ends, and a table of durations. A pytest plugin.

`python3 -m tests check` loads it (`pytest -p tests.progress`). Files run in the order of their durations in
tests/durations.json, longest first, so that several processes end together; `check --record` writes that file anew.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

DURATIONS = Path(__file__).with_name("durations.json")
NOT_MEASURED_S = 1000.0
"""Assumed of a file that durations.json does not have, so that it runs among the first."""
STILL_RUNS_S = 60.0
"""A run that has printed nothing for so long prints what runs now, as soon as another test begins."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("llamarig").addoption(
        "--record-durations", metavar="FILE", help="write the seconds of each file, if all tests pass"
    )


def measured() -> dict[str, float]:
    """File -> seconds, as last recorded."""
    durations: dict[str, float] = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    return durations


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest file first. The order of the tests of one file stays."""
    durations = measured()
    items.sort(key=lambda item: (-durations.get(_file(item.nodeid), NOT_MEASURED_S), _file(item.nodeid)))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(config), "llamarig-progress")


@dataclass
class _Run:
    """A file of tests, while it runs and afterwards."""

    tests: int = 0
    ended: int = 0
    seconds: float = 0.0
    began: float | None = None
    outcomes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return ", ".join(f"{number} {outcome}" for outcome, number in sorted(self.outcomes.items()))


class Progress:
    """Prints lines as files begin and end. Lives in the process that starts the others."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._files: dict[str, _Run] = {}
        self._began = self._printed = time.monotonic()

    def _print(self, line: str) -> None:
        self._printed = time.monotonic()
        minutes, seconds = divmod(int(self._printed - self._began), 60)
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        reporter.ensure_newline()
        reporter.write_line(f"{minutes:3d}:{seconds:02d}  {line}", flush=True)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """Every process collects the same tests; the first one counts."""
        self._expect(ids)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._expect([item.nodeid for item in session.items])

    def _expect(self, ids: list[str]) -> None:
        if not self._files:
            for name, number in Counter(map(_file, ids)).items():
                self._files[name] = _Run(number)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        run = self._files.setdefault(_file(nodeid), _Run())
        if run.began is None:
            run.began = time.monotonic()
        if time.monotonic() - self._printed > STILL_RUNS_S:
            self._print(f"running: {', '.join(self._running())}")

    def _running(self) -> list[str]:
        return [
            f"{name} ({run.ended} of {run.tests})"
            for name, run in self._files.items()
            if run.began is not None and run.ended < run.tests
        ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        run = self._files.setdefault(_file(report.nodeid), _Run())
        run.seconds += report.duration
        if report.when == "call" or report.outcome != "passed":
            run.outcomes[report.outcome] += 1
        when: str = report.when
        if when == "???":  # of a process that crashed; no end of this test is reported
            run.ended += 1

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        name = _file(nodeid)
        run = self._files[name]
        run.ended += 1
        if run.ended == run.tests and run.began is not None:
            self._print(f"{name}: {run} in {time.monotonic() - run.began:.0f} s")

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No dots: the lines of files say it."""
        return ("passed", "", "PASSED") if report.when == "call" and report.passed else None

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        ran = {name: run for name, run in self._files.items() if run.ended}
        terminalreporter.section("durations of files")
        for name, run in sorted(ran.items(), key=lambda entry: -entry[1].seconds):
            terminalreporter.write_line(f"{run.seconds:7.1f} s  {name}: {run}")
        terminalreporter.write_line(f"{sum(run.seconds for run in ran.values()):7.1f} s  together")
        target = self._config.getoption("--record-durations")
        if target and exitstatus == pytest.ExitCode.OK:
            rounded = {name: round(run.seconds, 1) for name, run in sorted(ran.items())}
            Path(target).write_text(json.dumps(rounded, indent=1) + "\n")


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]
