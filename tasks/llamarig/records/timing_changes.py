"""What differs between two timings: of their servers' command lines, and of the conditions they were made under."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from llamarig.records.bench_ledger import BenchEntry, Conditions

OTHER_CLOCK = 0.05
"""Fraction by which a GPU's median clock differs where it may explain another speed."""

# Flags that do not affect the speed: address and name.
_NOT_SPEED = ("--host", "--port", "--alias", "--api-key-file", "--api-prefix", "--ssl-cert-file", "--ssl-key-file")


def speed_flags(arguments: Sequence[str]) -> tuple[str, ...]:
    """A server's command line without program, names and addresses: the arguments that its speed may depend on."""
    flags: list[str] = []
    words = iter(arguments[1:])
    for word in words:
        if word in _NOT_SPEED:
            next(words, None)
        else:
            flags.append(word)
    return tuple(flags)


def release_of(arguments: Sequence[str]) -> str:
    """``<commit>-<build key>`` of the release in a server's command line; empty if llamarig did not build it."""
    return PurePosixPath(arguments[0]).parents[1].name if arguments and arguments[0].count("/") > 2 else ""


def changed_conditions(now: Conditions, then: Conditions) -> list[str]:
    """Differences between the conditions of two timings that may explain a change of speed."""
    changes = []
    if now.driver != then.driver:
        changes.append(f"driver {then.driver or 'unknown'} -> {now.driver or 'unknown'}")
    if now.ram_mts != then.ram_mts:
        changes.append(f"RAM {shown_mts(then.ram_mts)} -> {shown_mts(now.ram_mts)}")
    if [card.name for card in now.cards] != [card.name for card in then.cards]:
        changes.append(f"cards {shown_cards(then)} -> {shown_cards(now)}")
    else:
        changes += [
            f"power limit of {card.name} {_watts(earlier.power_limit_w)} -> {_watts(card.power_limit_w)}"
            for card, earlier in zip(now.cards, then.cards, strict=True)
            if card.power_limit_w != earlier.power_limit_w
        ]
        changes += [
            f"clock of {card.name} {earlier.clock_mhz} -> {card.clock_mhz} MHz"
            for card, earlier in zip(now.cards, then.cards, strict=True)
            if card.clock_mhz and earlier.clock_mhz and abs(card.clock_mhz / earlier.clock_mhz - 1) > OTHER_CLOCK
        ]
    if now.kernel and then.kernel and now.kernel != then.kernel:
        changes.append(f"kernel {then.kernel} -> {now.kernel}")
    if now.throttled != then.throttled:
        changes.append(
            f"slowed down by {', '.join(then.throttled) or 'nothing'} -> {', '.join(now.throttled) or 'nothing'}"
        )
    if now.beside != then.beside:
        changes.append(f"beside it {', '.join(then.beside) or 'nothing'} -> {', '.join(now.beside) or 'nothing'}")
    return changes


def changed_flags(now: BenchEntry, then: BenchEntry) -> list[str]:
    """Differences of build and flags between two timings."""
    changes = [f"build {then.release[:12]} -> {now.release[:12]}"] if now.release != then.release else []
    before, after = by_flag(then.flags), by_flag(now.flags)
    for flag in [*before, *(flag for flag in after if flag not in before)]:
        if before.get(flag) != after.get(flag):
            changes.append(f"{flag} {before.get(flag, 'not given')} -> {after.get(flag, 'not given')}")
    return changes


def by_flag(words: Sequence[str]) -> dict[str, str]:
    """Flag -> its value in a command line; `given` where it has none."""
    found: dict[str, str] = {}
    flag = ""
    for word in words:
        if word.startswith("--"):
            flag = word
            found.setdefault(flag, "")
        else:
            found[flag] = f"{found.get(flag, '')} {word}".strip()
    return {flag: value or "given" for flag, value in found.items()}


def shown_cards(at: Conditions) -> str:
    """The GPUs of a timing, with their power limits and clocks."""
    cards = []
    for card in at.cards:
        limit = f" at {_watts(card.power_limit_w)}" if card.power_limit_w else ""
        cards.append(f"{card.name}{limit}" + (f", {card.clock_mhz} MHz" if card.clock_mhz else ""))
    return ", ".join(cards) or "none"


def _watts(limit: float | None) -> str:
    return "unknown" if limit is None else f"{limit:.0f} W"


def shown_mts(rate: int | None) -> str:
    """A speed of RAM."""
    return "unknown" if rate is None else f"{rate} MT/s"
