"""The declaration that a survey proposes for a box, with the reasons, and what is left for its owner to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from llamarig.declare.build import Build
from llamarig.declare.host_policy import NvidiaDriver
from llamarig.survey.cards import Card

T = TypeVar("T")


@dataclass(frozen=True)
class Proposal:
    """``notes``: comments by what they are about: build, cards, driver, memory, cpu, disk.

    ``cards``: those that the first build serves, the best first. ``remarks``: sentences for the owner, who has
    something to do or to know.
    """

    builds: tuple[Build, ...]
    cards: tuple[Card, ...] = ()
    unused: tuple[Card, ...] = ()
    """Cards of NVIDIA that the builds do not serve."""
    alternative: Build | None = None
    """A build that would serve better once the owner has done what the notes say."""
    nvidia_driver: NvidiaDriver | None = None
    memory_mts: int | None = None
    threads: int | None = None
    cpu_affinity: str | None = None
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def kind(self) -> tuple[object, ...]:
        """Equal for boxes that one file can declare."""
        cards = tuple((card.vendor, card.name, card.gib) for card in (*self.cards, *self.unused))
        return self.builds, self.nvidia_driver, cards


def merged(proposals: Sequence[Proposal]) -> Proposal:
    """One declaration for boxes of one kind: without UUIDs, and with only the settings in which they agree."""
    first = proposals[0]
    if len(proposals) == 1:
        return first
    shared = {
        about: tuple(dict.fromkeys(line for one in proposals for line in one.notes.get(about, ())))
        for about in first.notes
    }
    cards, unused = (tuple(replace(card, uuid="") for card in each) for each in (first.cards, first.unused))
    return replace(
        first,
        cards=cards,
        unused=unused,
        notes=shared,
        memory_mts=_common(one.memory_mts for one in proposals),
        threads=_common(one.threads for one in proposals),
        cpu_affinity=_common(one.cpu_affinity for one in proposals),
    )


def _common(values: Iterable[T]) -> T | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None
