"""A fault before each operation of a switch: what served serves again, or the switch has succeeded; the next one does.

What systemd does is played by the test: it runs the unit's ExecStopPost= after the program, however that has ended, or
boots.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.remote.serve.switched_box import HERE, PEER, UNIT, SwitchedBox

KINDS = ("kill", "power", "term", "error", "full")


class Switch:
    """A box whose peer serves; the switch is to another unit, which has an old text that does not serve."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.box = SwitchedBox(directory)
        self.box.record_start(PEER, self.box.serve(PEER, "peer"))
        self.box.systemctl("enable", PEER)
        self.old = self.box.text("unused", conflicts=PEER)
        (self.box.units / UNIT).write_text(self.old)
        self.new = self.box.text("new", conflicts=PEER)

    def run(self, kind: str, at: int) -> None:
        """Switch with a fault; then do what systemd does."""
        fault = {
            "LLAMARIG_FAULT": str(HERE / "fault_injection.py"),
            "LLAMARIG_FAULT_KIND": "kill" if kind == "power" else kind,
            "LLAMARIG_FAULT_AT": str(at),
            "LLAMARIG_FAULT_COUNT": str(self.box.root / "count"),
        }
        self.box.more_environment = fault
        try:
            self.box.start(self.new, peers=[PEER]).wait(timeout=120)
        finally:
            self.box.more_environment = {}
        if kind == "power":
            self.box.boots()
        else:
            self.box.restore("after-switch")

    def state(self, *, booted: bool = False) -> str:
        """`old`, `new`, or what is half done."""
        deadline = time.monotonic() + 30
        while not (serves := self.box.answers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        files = {"units": self.units(), "enabled": sorted(file.name for file in (self.box.root / "enabled").iterdir())}
        if (serves, files) == ("peer", {"units": "old", "enabled": [PEER]}):
            return "old"
        # Where both are enabled, a boot after the switch may start either.
        either = {"new", "peer"} if booted and files["enabled"] == [UNIT, PEER] else {"new"}
        if serves in either and files["units"] == "new":
            return "new"
        return f"{serves or 'nothing'} serves, {files}"

    def units(self) -> str:
        text = (self.box.units / UNIT).read_text()
        return {self.old: "old", self.new: "new"}.get(text, text)

    def end(self) -> None:
        for unit in (UNIT, PEER):
            self.box.systemctl("stop", unit)


def faulty(directory: Path, kind: str, at: int) -> str:
    """One fault; returns what went wrong, or an empty text."""
    switch = Switch(directory)
    try:
        switch.run(kind, at)
        state, left = switch.state(booted=kind == "power"), switch.box.left_over()
        status, output = switch.box.ended(), (switch.box.root / "output").read_text()
        if state not in ("old", "new") or left:
            return f"{kind} at {at}: {state}; left over: {left}; {status}\n{output}"
        ended = switch.box.switch(switch.new, peers=[PEER])
        if not ended.startswith("done: ") or switch.state() != "new" or switch.box.left_over():
            return f"{kind} at {at}: then the next switch {ended}: {switch.state()}"
        return ""
    finally:
        switch.end()


def operations(directory: Path) -> int:
    """How many operations a switch without a fault has."""
    switch = Switch(directory)
    try:
        switch.run("count", 0)
        assert switch.state() == "new", switch.box.ended()
        return int((switch.box.root / "count").read_text())
    finally:
        switch.end()


def test_what_served_serves_again_after_a_fault_at_each_operation(tmp_path: Path) -> None:
    """Each kind at every fifth operation; the long test below has each at every one."""
    count = operations(tmp_path / "whole")
    assert count > 30, "the operations are not seen"
    assert wrong(tmp_path, [(KINDS[at % len(KINDS)], at) for at in range(1, count + 1)]) == ""


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_what_served_serves_again_after_every_fault_at_every_operation(tmp_path: Path, kind: str) -> None:
    assert wrong(tmp_path, [(kind, at) for at in range(1, operations(tmp_path / "whole") + 1)]) == ""


def wrong(directory: Path, faults: list[tuple[str, int]]) -> str:
    """Switch once with each fault; returns what went wrong, or an empty text."""
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(lambda fault: faulty(directory / f"{fault[0]}-{fault[1]}", *fault), faults)
        return "\n\n".join(filter(None, found))
