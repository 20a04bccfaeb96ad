"""Stop one host with one message, while the other hosts continue."""

from __future__ import annotations

from collections.abc import Iterable

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from llamarig.engine.item import Commands
from llamarig.engine.screen import say


def refuse(message: str, lines: Iterable[str] = ()) -> Commands:
    """A command that prints the message and fails. An exception in an operation would end the run of every host."""
    yield FunctionCommand(_fail, [message, list(lines)], {})


def _fail(state: State, host: Host, message: str, lines: list[str]) -> bool:
    report(host, message, lines)
    return False


def report(host: Host, message: str, lines: Iterable[str] = ()) -> None:
    """Log a message in red, then the lines that explain it, each with the host's name."""
    say(host, message, fg="red", log_func=logger.error)
    for line in lines:
        say(host, f"    {line}", log_func=logger.error)
