"""The last line of a terminal, which says what runs now on each host and is updated in place.

pyinfra's own spinner names the hosts and nothing else, and would draw over this one, so it is switched off. Where the
output is no terminal, or PYINFRA_PROGRESS is off, nothing is drawn.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import TextIO

import gevent
from pyinfra.api.state import BaseStateCallback, State

from llamarig.engine.progress import duration

_EVERY_S = 0.2
_SWITCH = "PYINFRA_PROGRESS"
CLEAR_LINE = "\033[K"


@dataclass
class LiveLine:
    """What is shown: a text for each host that reports progress, else the name of what runs and for how long."""

    is_drawn: bool = False
    running: str = ""
    since: float = 0.0
    of_hosts: dict[str, str] = field(default_factory=dict)
    """Host -> its progress."""

    def text(self, now: float) -> str:
        """The line now; empty where nothing runs.

        :param now: seconds of the clock that ``since`` is of
        """
        if self.of_hosts:
            return "; ".join(f"{host}: {text}" for host, text in sorted(self.of_hosts.items()))
        return f"{self.running}: {duration(now - self.since)}" if self.running else ""

    def begin(self, what: str, now: float) -> None:
        """Something else runs from now on; an empty text for nothing."""
        self.running, self.since = what, now


def draws(environment: MutableMapping[str, str], *streams: TextIO) -> bool:
    """Whether the line can be drawn; if so, pyinfra's own spinner is switched off."""
    if environment.get(_SWITCH) == "off" or not all(stream.isatty() for stream in streams):
        return False
    environment[_SWITCH] = "off"
    return True


def start_drawing(line: LiveLine, state: State) -> None:
    """Draw the line from now on, in a greenlet, where there is a terminal."""
    line.is_drawn = draws(os.environ, sys.stdout, sys.stderr)
    if line.is_drawn:
        state.add_callback_handler(_names_operations(line))  # type: ignore[no-untyped-call]  # pyinfra gives it no types
        gevent.spawn(_draw, line)


def _draw(line: LiveLine) -> None:
    for sign in itertools.cycle("-\\|/"):
        if text := line.text(time.monotonic()):
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"    {sign} {text}"[: width - 1] + "\r")
            sys.stderr.flush()
            # Not flushed: whatever is printed next clears the line first.
            sys.stderr.write(CLEAR_LINE)
        gevent.sleep(_EVERY_S)


def _names_operations(line: LiveLine) -> BaseStateCallback:
    class Names(BaseStateCallback):
        @staticmethod
        def operation_start(state: State, op_hash: str) -> None:
            line.begin(next(iter(state.get_op_meta(op_hash).names)), time.monotonic())

        @staticmethod
        def operation_end(state: State, op_hash: str) -> None:
            line.begin("", time.monotonic())

    return Names()
