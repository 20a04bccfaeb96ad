"""Converge a host: compare each item with the declaration and fix what differs. An audit makes the same comparison."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_here, read_inputs
from llamarig.engine.item import Commands, Difference, Item, Seen
from llamarig.engine.refuse import refuse
from llamarig.engine.run import of_host, read_all
from llamarig.engine.screen import say


def converge(items: Sequence[Item], rig: Rig) -> None:
    """One operation for each item, in order."""
    for item in items:
        converged(name=item.name, item=item, items=items, rig=rig)


@operation()
def converged(item: Item, items: Sequence[Item], rig: Rig) -> Commands:
    """Fix what differs.

    pyinfra evaluates this twice: while it prepares, up to the first command, to learn whether anything will change;
    and again while it executes. An item whose needs differ cannot be compared until they are fixed, so it counts as
    changing while pyinfra prepares.
    """
    known = of_host()
    waits_for = [need.name for need in item.needs if need.name in known.differing]
    if waits_for and not state.is_executing:
        _log(f"{item.name}: follows from {', '.join(waits_for)}")
        known.differing.add(item.name)
        yield _placeholder()
        return
    seen = look(item, items, rig)
    differences = item.differences(rig, seen)
    if state.is_executing:
        for note in item.notes(rig, seen):
            say(host, note, fg="yellow", log_func=logger.warning)
    if not differences:
        host.noop(f"{item.name} is as declared")
        return
    known.differing.add(item.name)
    refused = [difference for difference in differences if not difference.by_deploy and difference.stops_deploy]
    if not (refused and state.is_executing):
        for difference in differences:
            _show(difference)
    if refused:
        yield from refuse(_refusal(refused))
        return
    if fixable := [difference for difference in differences if difference.by_deploy]:
        yield from item.fix(rig, seen, fixable)
    else:
        host.noop(f"{item.name}: only the owner can change that")


def look(item: Item, items: Sequence[Item], rig: Rig, *, fresh: bool = False) -> Seen:
    """Read what an item is compared by. The first item of each stage reads the facts of all items, in one command.

    :param fresh: read again even what is known, after the item itself has changed the host
    """
    here, known = read_here(rig), of_host()
    if state.is_executing not in known.all_read and not fresh:
        known.all_read.add(state.is_executing)
        read_all(query for each in items for query in each.queries(rig, here))
    if not fresh:
        read_all(item.queries(rig, here))
    return read_inputs(item, rig, fresh=fresh)


def compare(items: Sequence[Item], rig: Rig) -> dict[str, list[Difference]]:
    """Item name -> its differences. Items whose needs differ are left out, so that one cause is one finding.

    Runs no command if all queries of the items have been read before (``read_all``), except for the hashes of a deep
    audit.
    """
    found: dict[str, list[Difference]] = {}
    left_out: set[str] = set()
    for item in items:
        if not item.audited:
            continue
        if any(found.get(need.name) or need.name in left_out for need in item.needs):
            left_out.add(item.name)
            continue
        found[item.name] = item.differences(rig, read_inputs(item, rig))
    return found


def _refusal(refused: Sequence[Difference]) -> str:
    return "; ".join(difference.refusal for difference in refused)


def _show(difference: Difference) -> None:
    restart = f" (restarts {', '.join(difference.restarts)})" if difference.restarts else ""
    if difference.by_deploy:
        _log(difference.finding + restart)
    else:
        say(host, difference.refusal + restart, fg="yellow", log_func=logger.warning)


def _log(line: str) -> None:
    say(host, line)


def _placeholder() -> FunctionCommand:
    """A command that is never run: it makes pyinfra count the operation as a change while it prepares."""
    return FunctionCommand(lambda state, host: True, [], {})
