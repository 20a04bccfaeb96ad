"""A fault before each operation of a switch: what served serves again, or the switch has succeeded; the next one does.

What systemd does is played by the test: it runs the unit's ExecStopPost= after the program, however that has ended, or
boots.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.remote.serve.switched_box import HERE, PEER, UNIT, SwitchedBox, wait_for
from tests.remote.serve.test_first_start import plan

KINDS = ("kill", "power", "term", "error", "full", "exit")
RETIRED = "llamarig-c.service"


@dataclass
class Case:
    """A box before a switch. ``job``: what is switched to, besides its text; ``old``: what to return to."""

    box: SwitchedBox
    text: str = ""
    job: dict[str, Any] = field(default_factory=dict)
    old: str = ""
    key: str = ""

    def snapshot(self) -> str:
        """What serves, each unit's file, what starts at boot, and what a rollback would return to."""
        texts = {file.name: file.read_text() for file in self.box.units.glob("*.service")}
        previous = self.box.records / f"{UNIT}.previous.json"
        way_back = json.loads(previous.read_text())["text"] if previous.exists() else ""
        found = [self.box.answers(self.key), texts, self.box.enabled(), way_back]
        text = json.dumps(found, indent=1, sort_keys=True)
        return text.replace(str(self.box.port), "PORT").replace(str(self.box.root), "ROOT")


def another_model(box: SwitchedBox) -> Case:
    """A peer serves, and the unit has a file that never answered."""
    box.record_start(PEER, box.serve(PEER, "peer"))
    box.systemctl("enable", PEER)
    (box.units / UNIT).write_text(box.text("unused", conflicts=PEER))
    return Case(box, box.text("new", conflicts=PEER), {"peers": [PEER]})


def in_place(box: SwitchedBox) -> Case:
    """The unit itself serves, and has served with two texts."""
    for mode in ("older", "old"):
        assert box.switch(box.text(mode)).startswith("done: ")
    return Case(box, box.text("new"))


def first(box: SwitchedBox) -> Case:
    """Nothing was deployed yet."""
    box.systemctl("daemon-reload")
    return Case(box, box.text("new"))


def default_replaced(box: SwitchedBox) -> Case:
    """The former default serves, the new one has served before, and a unit of no declared model starts at boot."""
    assert box.switch(box.text("old", conflicts=PEER), peers=[PEER]).startswith("done: ")
    assert box.switch(box.text("peer"), name="switch-b", unit=PEER, peers=[UNIT]).startswith("done: ")
    (box.units / RETIRED).write_text("[Service]\nExecStart=/bin/sleep 1000\n")  # it does not listen on the port of ours
    box.systemctl("daemon-reload")
    box.systemctl("enable", RETIRED)
    return Case(box, box.text("new", conflicts=PEER), {"peers": [PEER, RETIRED], "retired": [RETIRED]})


def after_a_killed_one(box: SwitchedBox) -> Case:
    """A switch was killed, and nothing has undone it yet."""
    case = another_model(box)
    case.old = case.snapshot()
    running = box.start(box.text("hangs", conflicts=PEER), peers=[PEER])
    wait_for(lambda: box.status().get("step") == "loading the model")
    running.kill()
    running.wait()
    return case


def step_down(box: SwitchedBox) -> Case:
    """The planned placement lacks memory."""
    assert box.switch(box.text("old")).startswith("done: ")
    return Case(box, box.text("crashes"), {"plan": plan(box.text("new"))})


def with_a_key(box: SwitchedBox) -> Case:
    """The server wants a key."""
    path, key = box.root / "key", "sesame-0123456789"
    path.write_text(f"{key}\n")
    path.chmod(0o600)
    keyed = {"api_key_file": str(path)}
    assert box.switch(box.text("old", "--api-key-file", str(path)), **keyed).startswith("done: ")
    return Case(box, box.text("new", "--api-key-file", str(path)), keyed, key=key)


def not_started(box: SwitchedBox) -> Case:
    """A peer serves on, and the unit gets another text."""
    case = another_model(box)
    case.job = {"start": False}
    return case


CASES: tuple[Callable[[SwitchedBox], Case], ...] = (
    *(another_model, in_place, first, default_replaced, after_a_killed_one, step_down, with_a_key, not_started),
)


class Switch:
    """A switch of a case, with a fault."""

    def __init__(self, directory: Path, case: Callable[[SwitchedBox], Case]) -> None:
        directory.mkdir()
        self.box = SwitchedBox(directory)
        self.case = case(self.box)
        self.case.job["load_timeout_s"] = 120  # a busy machine takes long to start the stand-in
        self.before = self.case.snapshot()
        self.old = self.case.old or self.before

    def run(self, kind: str, at: int) -> None:
        """Switch with a fault; then do what systemd does."""
        fault = {
            "LLAMARIG_FAULT": str(HERE / "fault_injection.py"),
            "LLAMARIG_FAULT_KIND": "kill" if kind == "power" else kind,
            "LLAMARIG_FAULT_AT": str(at),
            "LLAMARIG_FAULT_COUNT": str(self.box.root / "count"),
            "LLAMARIG_FAULT_CALLS": str(self.box.root / "calls"),
        }
        self.box.more_environment = fault
        try:
            self.box.start(self.case.text, **self.case.job).wait(timeout=600)
        finally:
            self.box.more_environment = {}
        if kind == "power":
            self.box.boots()
        else:
            self.box.restore()

    def state(self, new: str) -> str:
        """`old`, also where nothing was changed at all, `new`, or what is half done."""
        known = {self.before: "old", self.old: "old", new: "new"}
        deadline = time.monotonic() + 120
        while (found := self.case.snapshot()) not in known and time.monotonic() < deadline:
            time.sleep(0.05)
        return known.get(found, found)

    def end(self) -> None:
        for unit in (UNIT, PEER, RETIRED):
            self.box.systemctl("stop", unit)


@dataclass(frozen=True)
class Whole:
    """A switch without a fault: how many operations and calls of systemctl it has, and what it ends with."""

    operations: int
    calls: int
    new: str

    def faults(self, kind: str) -> range:
        return range(1, (self.calls if kind == "exit" else self.operations) + 1)


def whole(directory: Path, case: Callable[[SwitchedBox], Case]) -> Whole:
    switch = Switch(directory, case)
    try:
        switch.run("count", 0)
        ended = switch.box.ended()
        assert ended.startswith("done: "), ended
        assert switch.box.left_over() == set()
        operations, calls = (int((switch.box.root / name).read_text()) for name in ("count", "calls"))
        return Whole(operations, calls, switch.case.snapshot())
    finally:
        switch.end()


def faulty(directory: Path, case: Callable[[SwitchedBox], Case], kind: str, at: int, new: str) -> str:
    """One fault; returns what went wrong, or an empty text."""
    switch = Switch(directory, case)
    what = f"{case.__name__}: {kind} at {at}"
    try:
        switch.run(kind, at)
        state, left = switch.state(new), switch.box.left_over()
        status, output = switch.box.ended(), (switch.box.root / "output").read_text()
        if state not in ("old", "new") or left:
            return f"{what}: {state}; left over: {left}; {status}\n{output}"
        ended = switch.box.switch(switch.case.text, **switch.case.job)
        if not ended.startswith("done: ") or switch.state(new) != "new" or switch.box.left_over():
            return f"{what}: then the next switch {ended}: {switch.state(new)}"
        return ""
    finally:
        switch.end()


def wrong(directory: Path, case: Callable[[SwitchedBox], Case], new: str, faults: list[tuple[str, int]]) -> str:
    """Switch once with each fault; returns what went wrong, or an empty text."""
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(lambda one: faulty(directory / f"{one[0]}-{one[1]}", case, one[0], one[1], new), faults)
        return "\n\n".join(filter(None, found))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_served_serves_again_after_a_fault(tmp_path: Path, case: Callable[[SwitchedBox], Case]) -> None:
    """Three or so, of other kinds and at other operations in each case; the long test below has each at every one."""
    found, number = whole(tmp_path / "whole", case), CASES.index(case)
    assert found.operations > (10 if case is not_started else 30), "the operations are not seen"
    faults: list[tuple[str, int]] = []
    for at in range(1 + number, found.operations + 1, 2 * len(CASES)):
        kind = KINDS[(len(faults) + number) % len(KINDS)]
        faults.append((kind, at % found.calls + 1 if kind == "exit" else at))
    assert wrong(tmp_path, case, found.new, faults) == ""


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_served_serves_again_after_every_fault_at_every_operation(
    tmp_path: Path, case: Callable[[SwitchedBox], Case], kind: str
) -> None:
    found = whole(tmp_path / "whole", case)
    assert wrong(tmp_path, case, found.new, [(kind, at) for at in found.faults(kind)]) == ""
