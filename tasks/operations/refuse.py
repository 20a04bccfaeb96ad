"""Stopping one host with one clear message, and leaving the others alone."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary

from pyinfra import context, logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from tasks.operations import Commands

_REFUSED: WeakKeyDictionary[Host, dict[str | None, str]] = WeakKeyDictionary()


def refuse(message: str, lines: Iterable[str] = ()) -> Commands:
    """A command that says why and fails. An exception inside an operation would end the run of every host."""
    shown = list(lines)
    this = context.state.inventory.get_host(context.host.name)
    _REFUSED.setdefault(this, {})[context.host.current_op_hash] = "; ".join([message, *shown])
    yield FunctionCommand(_fail, [message, shown], {})


def refusal_of(on: Host, op_hash: str) -> str:
    """Why an operation that has been asked whether it would change anything refuses to; empty where it does not."""
    return _REFUSED.get(on, {}).get(op_hash, "")


def _fail(state: State, host: Host, message: str, lines: list[str]) -> bool:
    report(host, message, lines)
    return False


def report(host: Host, message: str, lines: Iterable[str] = ()) -> None:
    """The message in red, the lines that show why below it, each with the host's name."""
    host.log_styled(message, fg="red", log_func=logger.error)
    for line in lines:
        host.log(f"    {line}", log_func=logger.error)
