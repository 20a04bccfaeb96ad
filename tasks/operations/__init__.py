"""How one difference is closed: commands for the difference only."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import ParamSpec
from weakref import WeakKeyDictionary

from pyinfra.api.command import PyinfraCommand
from pyinfra.api.host import Host
from pyinfra.context import host, state

from tasks.planning.checks.base import Check

Commands = Generator[PyinfraCommand, None, None]
"""What an operation is: pyinfra asks for the first command to know whether it will change anything."""

P = ParamSpec("P")

_CLOSES: WeakKeyDictionary[Host, dict[str | None, tuple[type[Check], ...]]] = WeakKeyDictionary()


def closes(*checks: type[Check]) -> Callable[[Callable[P, Commands]], Callable[P, Commands]]:
    """Below ``@operation()``: whose findings the operation closes. An audit tells those, and not the operation."""

    def mark(function: Callable[P, Commands]) -> Callable[P, Commands]:
        @wraps(function)
        def marked(*args: P.args, **kwargs: P.kwargs) -> Commands:
            _CLOSES.setdefault(state.inventory.get_host(host.name), {})[host.current_op_hash] = checks
            yield from function(*args, **kwargs)

        return marked

    return mark


def closed_by(on: Host, op_hash: str) -> tuple[type[Check], ...]:
    """The checks whose findings an operation that has been asked closes; none where it says nothing."""
    return _CLOSES.get(on, {}).get(op_hash, ())
