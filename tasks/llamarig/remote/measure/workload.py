"""The work that a served model is timed with: conversations of known lengths, or one that its owner has recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

from llamarig.remote.shared.record import Record

_SPARE_TOKENS = 64
"""Of a slot: for what a server adds by itself."""
LEAST_CONTEXT = 512
"""Tokens of a slot below which no conversation fits that would show anything."""


@dataclass(frozen=True)
class Turn(Record):
    """One request of a conversation: the tokens that it adds to what was said before, and those that are generated."""

    adds: int
    generates: int


@dataclass(frozen=True)
class Workload(Record):
    """What is replayed.

    ``name``: of the preset, or ``recording``; ``turns``: of each conversation; ``conversations``: how many of them, one
    after another, or side by side in as many slots as there are where ``at_once``; ``recording``: path of a recorded
    conversation on the box, with ``sha256`` of its content.
    """

    name: str
    turns: tuple[Turn, ...] = ()
    conversations: int = 1
    at_once: bool = False
    recording: Optional[str] = None
    sha256: str = ""

    @property
    def context(self) -> int:
        """Tokens of one conversation at its end."""
        return sum(turn.adds + turn.generates for turn in self.turns)


AGENT = Workload(
    "agent",
    # One prompt with instructions, tools and files, then results of tools: small and large ones in turn.
    (Turn(8192, 200), *(Turn(adds, 200) for adds in (200, 2000, 400, 1800, 600, 1600, 800, 1400, 1000, 1200))),
)
CHAT = Workload("chat", (Turn(600, 300), *(Turn(adds, 300) for adds in (40, 120, 60, 200, 80))))
BATCH = Workload("batch", (Turn(2000, 128),), conversations=8, at_once=True)
PRESETS = {one.name: one for one in (AGENT, CHAT, BATCH)}
"""Lengths that were chosen, not measured: who has other work records it."""


def fitted(workload: Workload, context: int) -> Workload:
    """The workload with every length reduced in proportion, so that a conversation fits into a slot.

    :param context: of a slot, in tokens
    :raises ValueError: for a context in which nothing fits
    """
    if context < LEAST_CONTEXT:
        raise ValueError(f"a slot of {context} tokens is too small to be timed with: declare a context of at least 512")
    if workload.context + _SPARE_TOKENS <= context:
        return workload
    part = (context - _SPARE_TOKENS) / workload.context
    turns = tuple(Turn(max(1, int(turn.adds * part)), max(2, int(turn.generates * part))) for turn in workload.turns)
    return replace(workload, turns=_within(turns, context - _SPARE_TOKENS))


def _within(turns: Sequence[Turn], context: int) -> tuple[Turn, ...]:
    """As many turns as fit: the least lengths of many turns may be more than a small context."""
    kept, used = [], 0
    for turn in turns:
        used += turn.adds + turn.generates
        if used > context:
            break
        kept.append(turn)
    return tuple(kept)
