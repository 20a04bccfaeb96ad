"""What the commands print on a screen, in words and layout as their reader sees it: recorded, and reviewed as text.

Each screen is a run of the real command line. Nothing of it depends on the time, the machine or the directory.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import click

from tests.prepared_pyinfra import ROOT, run_pyinfra
from tests.screens import boxes, survey_boxes
from tests.screens.boxes import Kind, write_inventory

DIRECTORY = Path(__file__).parent / "recorded"
_THREE: dict[str, Kind | None] = {"a": boxes.clean, "b": boxes.drifted, "gone": None}
_TWO = ("m", "n")


@dataclass(frozen=True)
class Screen:
    """A command line (after the inventory), and the boxes that it is for."""

    hosts: dict[str, Kind | None]
    arguments: tuple[str, ...]
    options: tuple[str, ...] = ("-y",)
    models: tuple[str, ...] = field(default=("m",))
    repository: Callable[[Path], None] | None = None
    """Makes the owner's repository that it runs in, where that is another directory than the clone."""
    asks_hub: bool = False
    """Whether a stand-in Hub runs beside it."""


_QUANTS = ("tasks/choose.py", "--data", f"repo={boxes.REPOSITORY}", "--data", "context=32768")


def _one(kind: Kind, *arguments: str, dry: bool = False, models: tuple[str, ...] = ("m",)) -> Screen:
    return Screen({"box": kind}, arguments, ("--dry",) if dry else ("-y",), models)


def _three(*arguments: str, dry: bool = False) -> Screen:
    return Screen(_THREE, arguments, ("-y", "--dry") if dry else ("-y",))


def _survey(repository: Callable[[Path], None]) -> Screen:
    return Screen({}, ("tasks/survey.py",), repository=repository)


SCREENS: dict[str, Screen] = {
    "deploy-clean": _one(boxes.clean, "deploy.py"),
    "deploy-drift": _one(boxes.drifted, "deploy.py"),
    "deploy-three-hosts": _three("deploy.py"),
    "deploy-failed-switch": _one(boxes.failing, "deploy.py"),
    "dry-clean": _one(boxes.clean, "deploy.py", dry=True),
    "dry-drift": _one(boxes.drifted, "deploy.py", dry=True),
    "dry-drift-diff": Screen({"box": boxes.drifted}, ("deploy.py",), ("--dry", "--diff")),
    "dry-three-hosts": _three("deploy.py", dry=True),
    "dry-three-hosts-no-terminal": Screen(_THREE, ("deploy.py",), ("--dry",)),
    "audit-clean": _one(boxes.clean, "tasks/audit.py"),
    "audit-drift": _one(boxes.drifted, "tasks/audit.py"),
    "audit-three-hosts": _three("tasks/audit.py"),
    "audit-rolled-back": _one(boxes.rolled_back, "tasks/audit.py"),
    "choose-clean": Screen({"box": boxes.clean}, _QUANTS, asks_hub=True),
    "choose-no-release": Screen({"box": boxes.without_release}, _QUANTS, asks_hub=True),
    "choose-three-hosts": Screen({"a": boxes.clean, "b": boxes.without_release, "gone": None}, _QUANTS, asks_hub=True),
    "status-clean": _one(boxes.clean, "tasks/status.py"),
    "status-drift": _one(boxes.drifted, "tasks/status.py"),
    "status-three-hosts": _three("tasks/status.py"),
    "survey-clean": _survey(survey_boxes.declared),
    "survey-one-new": _survey(survey_boxes.one_new),
    "survey-three-hosts": _survey(survey_boxes.three_hosts),
    "survey-boxes-that-differ": _survey(survey_boxes.boxes_that_differ),
    "switch-clean": _one(boxes.clean, "tasks/switch.py", "--data", "model=m"),
    "switch-to-another": _one(boxes.stopped, "tasks/switch.py", "--data", "model=n", models=_TWO),
    "switch-drift": _one(boxes.drifted, "tasks/switch.py", "--data", "model=m"),
    "switch-three-hosts": _three("tasks/switch.py", "--data", "model=m"),
    "switch-failed": _one(boxes.stopped_and_failing, "tasks/switch.py", "--data", "model=n", models=_TWO),
    "rollback-nothing": _one(boxes.clean, "tasks/rollback.py"),
    "rollback": _one(boxes.with_earlier_start, "tasks/rollback.py"),
    "rollback-failed": _one(boxes.with_earlier_start_and_failing, "tasks/rollback.py"),
    "rollback-three-hosts": Screen(
        {"a": boxes.with_earlier_start, "b": boxes.clean, "gone": None}, ("tasks/rollback.py",)
    ),
    "plan-clean": _one(boxes.clean, "tasks/plan.py"),
    "plan-three-hosts": _three("tasks/plan.py"),
    "bench-clean": _one(boxes.clean, "tasks/bench.py", "--data", "runs=2"),
    "bench-three-hosts": _three("tasks/bench.py", "--data", "runs=2"),
    "prune-clean": _one(boxes.clean, "tasks/prune.py"),
    "prune-three-hosts": _three("tasks/prune.py"),
    "adopt-nothing": _one(boxes.clean, "tasks/adopt.py"),
    "adopt": _one(boxes.with_own_start, "tasks/adopt.py"),
    "adopt-three-hosts": Screen({"a": boxes.with_own_start, "b": boxes.clean, "gone": None}, ("tasks/adopt.py",)),
    "uninstall-clean": _one(boxes.clean, "tasks/uninstall.py"),
    "uninstall-box": _one(boxes.clean, "tasks/uninstall.py", "--data", "delete=box"),
    "uninstall-three-hosts": _three("tasks/uninstall.py"),
    "lock-newer": Screen({"box": boxes.clean}, ("tasks/lock.py",), asks_hub=True),
    "lock-three-hosts": Screen(_THREE, ("tasks/lock.py",), asks_hub=True),
}


def printed(screen: Screen, directory: Path) -> str:
    """Run the command and return what it prints, its exit status first."""
    directory.mkdir(parents=True, exist_ok=True)
    cwd, inventory = ROOT, Path("inventory/home.py")
    # The cache is the test's own, since a header that is in it is not fetched again.
    environment = {**os.environ, "COLUMNS": "120", "XDG_CACHE_HOME": str(directory / "cache")}
    with boxes.served_quants(directory / "hub") if screen.asks_hub else nullcontext("") as endpoint:
        if screen.repository is not None:
            cwd = directory
            screen.repository(directory)
        else:
            inventory = write_inventory(directory, screen.hosts, screen.models, endpoint)
        done = run_pyinfra(*screen.options, inventory, *screen.arguments, cwd=cwd, env=environment, timeout=300)
    command = " ".join(["pyinfra", *screen.options, "inventory/home.py", *screen.arguments])
    return f"$ {command}\n{_settled(done.stdout + done.stderr, directory)}\nexit status {done.returncode}\n"


_SECONDS = re.compile(r"\((?:\d+(?:\.\d+)? s|\d+ min(?: \d+ s)?)\)|\b\d+\.\d+s\b")


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_HOST = re.compile(r" *\[([^]]+)\]")
_UNCHANGED = re.compile(r"^(?:--> Starting operation: .*\n(?: +\[[^]]+\] No changes\n)+\n)+", re.MULTILINE)
_UNCHANGED_ROWS = re.compile(r"^(?:    (?!Grand total).* - +(?:-|- +\d+)\n)+", re.MULTILINE)

_TOTAL = re.compile(r"    Grand total.*\n")
_CHECKS = re.compile(r"\d+ checks")


def _settled(output: str, directory: Path) -> str:
    """Without what differs between two runs (colours, times, the directory, which host is first), and shorter.

    Of operations that change nothing only one line is left: a reader skips them.
    """
    text = click.unstyle(output).replace(f"{directory}/", "")
    lines = (line.rstrip() for line in _TIME.sub("2026-01-01T00:00:00Z", _SECONDS.sub("(1 s)", text)).splitlines())
    known = [line for line in lines if "/.ssh/known_hosts" not in line]
    text = "".join(f"{line}\n" for block in _blocks(known) for line in block)
    text = _UNCHANGED.sub("    ... operations without changes\n\n", text)
    text = _UNCHANGED_ROWS.sub("    ... operations without changes\n", text)
    # They change with each new item or check.
    return _CHECKS.sub("49 checks", _TOTAL.sub("", text)).strip()


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Lines that belong to hosts, those of each host together, in the hosts' order; other lines one by one."""
    for host, block in itertools.groupby(lines, key=lambda line: _HOST.match(line) is not None):
        yield sorted(block, key=_host_of if host else lambda _: "")


def _host_of(line: str) -> str:
    found = _HOST.match(line)
    return found[1] if found else ""


def recorded() -> Iterator[tuple[str, str]]:
    """Name -> text of each screen that was recorded."""
    for path in sorted(DIRECTORY.glob("*.txt")):
        yield path.stem, path.read_text()
