"""Stop one host with one message, while the other hosts continue."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Concatenate, ParamSpec

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from llamarig.engine.item import Commands
from llamarig.engine.run import NoAnswerError, of_host
from llamarig.engine.screen import say

P = ParamSpec("P")


def while_answered(commands: Callable[P, Commands]) -> Callable[P, Commands]:
    """Of an operation: it ends this host where a question to it does not end. That has been reported."""

    @wraps(commands)
    def guarded(*arguments: P.args, **named: P.kwargs) -> Commands:
        try:
            yield from commands(*arguments, **named)
        except NoAnswerError:
            yield FunctionCommand(lambda state, host: False, [], {})

    return guarded


def false_if_unanswered(
    work: Callable[Concatenate[State, Host, P], bool],
) -> Callable[Concatenate[State, Host, P], bool]:
    """Of the function of a command: it fails where a question to its host does not end. That has been reported."""

    # pyinfra passes no arguments to a function that names none.
    @wraps(work)
    def guarded(state: State, host: Host, /, *arguments: P.args, **named: P.kwargs) -> bool:
        try:
            return work(state, host, *arguments, **named)
        except NoAnswerError:
            return False

    return guarded


def refuse(message: str, lines: Iterable[str] = ()) -> Commands:
    """A command that prints the message and fails. An exception in an operation would end the run of every host."""
    yield FunctionCommand(_fail, [message, list(lines)], {})


def _fail(state: State, host: Host, message: str, lines: list[str]) -> bool:
    report(host, message, lines)
    return False


def report(host: Host, message: str, lines: Iterable[str] = ()) -> None:
    """Log a message in red, then the lines that explain it, each with the host's name.

    The first message is what the closing block calls the host's failure, where it fails.
    """
    known = of_host(host)
    known.failure = known.failure or message
    say(host, message, fg="red", log_func=logger.error)
    for line in lines:
        say(host, f"    {line}", log_func=logger.error)
