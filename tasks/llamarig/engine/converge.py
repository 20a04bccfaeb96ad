"""Converge a host: compare each item with the declaration and fix what differs. An audit makes the same comparison."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import unified_diff

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_here, read_inputs
from llamarig.engine.item import Commands, Difference, Item, Seen
from llamarig.engine.refuse import refuse, while_answered
from llamarig.engine.run import HostRun, of_host, read_all
from llamarig.engine.screen import say

_MOST_SENTENCES = 3
"""Of one item in the closing block."""


def converge(items: Sequence[Item], rig: Rig) -> None:
    """One operation for each item, in order."""
    for item in items:
        converged(name=item.name, item=item, items=items, rig=rig)


@operation()
@while_answered
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
        if type(item).foresee is not Item.foresee:
            _foresee(known, list(item.foresee(rig, read_inputs(item, rig))))
        yield _placeholder()
        return
    seen = look(item, items, rig)
    if known.unanswered:
        yield FunctionCommand(lambda state, host: False, [], {})  # it has been reported
        return
    differences = item.differences(rig, seen)
    if state.is_executing:
        for note in item.notes(rig, seen):
            say(host, note, fg="yellow", log_func=logger.warning)
    if not differences:
        if item.awaits_work:
            _end_work(known)
        host.noop(f"{item.name} is as declared")
        return
    if any(map(_blocks, differences)):
        known.differing.add(item.name)
    refused = [difference for difference in differences if not difference.by_deploy and difference.stops_deploy]
    if not (refused and state.is_executing):
        for difference in differences:
            _show(difference)
    fixable = [difference for difference in differences if difference.by_deploy]
    if not state.is_executing:
        _note(known.would_fail, item, [difference.refusal for difference in refused])
        _note(known.would_change, item, [difference.plan for difference in fixable])
    if refused:
        yield from refuse(_refusal(refused))
        return
    if fixable:
        yield from item.fix(rig, seen, fixable)
        # Reached where no command of it has failed.
        if item.awaits_work:
            _end_work(known)
        else:
            _note(known.begun if item.begins_work else known.changes, item, list(item.done(rig, fixable)))
    else:
        host.noop(f"{item.name}: only the owner can change that")


def _end_work(known: HostRun) -> None:
    known.changes += known.begun
    known.begun.clear()


def _note(sentences: list[str], item: Item, new: list[str]) -> None:
    """Keep sentences for the end of the run; of an item with many, the first, and how many there are."""
    shown = new if len(new) <= _MOST_SENTENCES or item.names_each_change else new[: _MOST_SENTENCES - 1]
    sentences.extend(shown)
    if len(shown) < len(new):
        sentences.append(f"{item.name}: {len(new) - len(shown)} more")


def _foresee(known: HostRun, sentences: list[str]) -> None:
    for sentence in sentences:
        _log(sentence)
    known.would_change += sentences


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
        if any(any(map(_blocks, found.get(need.name, ()))) or need.name in left_out for need in item.needs):
            left_out.add(item.name)
            continue
        found[item.name] = item.differences(rig, read_inputs(item, rig))
    return found


def _blocks(difference: Difference) -> bool:
    """Whether an item that needs this one cannot be compared: not for what the owner alone may change, at leisure."""
    return difference.by_deploy or difference.stops_deploy


def _refusal(refused: Sequence[Difference]) -> str:
    return "; ".join(difference.refusal for difference in refused)


def _show(difference: Difference) -> None:
    restart = f" (restarts {', '.join(difference.restarts)})" if difference.restarts and not difference.will else ""
    if difference.by_deploy:
        _log((difference.will or difference.finding) + restart)
    else:
        say(host, difference.refusal + restart, fg="yellow", log_func=logger.warning)
    if state.config.DIFF and difference.texts is not None:
        _show_texts(*difference.texts)


def _show_texts(before: str, after: str) -> None:
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in list(unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm=""))[2:]:
        say(host, f"    {line}", fg=colours.get(line[:1]))


def _log(line: str) -> None:
    say(host, line)


def _placeholder() -> FunctionCommand:
    """A command that is never run: it makes pyinfra count the operation as a change while it prepares."""
    return FunctionCommand(lambda state, host: True, [], {})
