"""Stopping one host with one clear message, and leaving the others alone."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import host, state

from tasks.operations import Commands

_REFUSED: WeakKeyDictionary[Host, dict[str | None, str]] = WeakKeyDictionary()


def refuse(message: str, lines: Iterable[str] = ()) -> Commands:
    """A command that says why and fails. An exception inside an operation would end the run of every host."""
    shown = list(lines)
    _REFUSED.setdefault(state.inventory.get_host(host.name), {})[host.current_op_hash] = "; ".join([message, *shown])
    yield FunctionCommand(_fail, [message, shown], {})


def refusal_of(on: Host, op_hash: str) -> str:
    """Why an operation that has been asked whether it would change anything refuses to; empty where it does not."""
    return _REFUSED.get(on, {}).get(op_hash, "")


def _fail(_: State, on: Host, message: str, lines: list[str]) -> bool:
    report(on, message, lines)
    return False


def report(on: Host, message: str, lines: Iterable[str] = ()) -> None:
    """The message in red, the lines that show why below it, each with the host's name."""
    on.log_styled(message, fg="red", log_func=logger.error)
    for line in lines:
        on.log(f"    {line}", log_func=logger.error)
