"""Facts that several operations of a run ask for: read once for as long as no operation has changed the box.

pyinfra itself keeps no fact (3.10: its cache is gone, its documentation of it is not), and a no-change run would read
releases, model store and units three or four times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pyinfra.api.facts import FactBase
from pyinfra.context import host, state

from tasks.facts.together import Asked, Together

T = TypeVar("T")

_READ: dict[tuple[str, type[FactBase[Any]], str], tuple[object, Any]] = {}
_RUN = {"only looks": False}


def only_looking() -> None:
    """This run changes nothing, so what was read while pyinfra asked what would change holds to its end."""
    _RUN["only looks"] = True


def read_once(fact: type[FactBase[T]], *, fresh: bool = False, **arguments: Any) -> T:
    """The fact, read again when an operation has changed this host since, or its owner was asked to go on.

    :param fresh: read it now: for an operation that has itself done something since it last looked
    """
    key = _key(fact, arguments)
    if not fresh and _is_read(key):
        value: T = _READ[key][1]
        return value
    value = host.get_fact(fact, **arguments)
    _READ[key] = (_moment(), value)
    return value


def _is_read(key: tuple[str, type[FactBase[Any]], str]) -> bool:
    return key in _READ and _READ[key][0] == _moment()


def _key(fact: type[FactBase[Any]], arguments: Mapping[str, Any]) -> tuple[str, type[FactBase[Any]], str]:
    return host.name, fact, repr(sorted(arguments.items()))


def _moment() -> object:
    """Equal for as long as nothing can have become otherwise by this run's own doing."""
    this = state.inventory.get_host(host.name)
    changes = sum(
        data.operation_meta.is_complete() and data.operation_meta.did_change() for data in state.ops[this].values()
    )
    return state.inventory, changes, state.is_executing and not _RUN["only looks"]


def read_together(asked: Sequence[Asked]) -> None:
    """Read all of these at once that are not read yet, for whoever asks for them one by one later.

    One whose command ended in an error is left for that one to ask again: pyinfra then says so.
    """
    asked = [(fact, arguments) for fact, arguments in asked if not _is_read(_key(fact, arguments))]
    said = host.get_fact(Together, asked=asked) if asked else {}
    for number, (fact, arguments) in enumerate(asked):
        if number in said:
            lines = said[number]
            _READ[_key(fact, arguments)] = (_moment(), fact().process(lines) if lines else fact().default())
