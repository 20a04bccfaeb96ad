"""Checks that report the differences of items, so that an audit compares as a deploy does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llamarig.checks.base import Check, Finding
from llamarig.checks.box import Box
from llamarig.declare.rig import Rig
from llamarig.engine.item import Item
from llamarig.items.all_items import ITEMS


class ItemCheck(Check):
    """The differences of all items that report under one id."""

    by_deploy = True
    remedy = "run deploy.py"

    def __init__(self, id: str, items: Sequence[Item]) -> None:
        self.id = id
        self.items = items
        self.severity = min(item.severity for item in items)
        self.is_collective = id == Item.check
        expected = "; ".join(item.expects() for item in items)
        self.expects = "nothing else that a deploy would change" if self.is_collective else expected

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """One finding for each difference; of the items without an id of their own, one for each item."""
        for item in self.items:
            differences = box.differences.get(item.name, [])
            if not self.is_collective:
                yield from (self.of_difference(difference, item.covered_by) for difference in differences)
            elif differences:
                # What stops a deploy goes first: "run deploy.py" would be wrong advice beside it.
                shown = next((one for one in differences if not one.by_deploy), differences[0])
                first = self.of_difference(shown, item.covered_by)
                more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
                found = shown.found if shown.message else f"{shown.what}: {first.found}{more}"
                yield replace(first, found=found, about=item.name)


def item_checks() -> list[ItemCheck]:
    """One check for each id, in the order of the items."""
    ids = list(dict.fromkeys(item.check for item in ITEMS if item.audited))
    return [ItemCheck(id, [item for item in ITEMS if item.audited and item.check == id]) for id in ids]
