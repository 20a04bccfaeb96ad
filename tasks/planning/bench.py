"""Timings of a served model: what several runs come to, what they are held against, and the table its owner reads."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tasks.spec.bench_ledger import BenchEntry, Conditions, Speed

TOLERATED_DROP = 0.05
"""Medians of runs in a row differ by 1 to 2 % on an idle box; what is lost beyond this has a reason."""

# Where a server listens and what it is called changes no speed.
_NAMES = ("--host", "--port", "--alias", "--api-key-file")


@dataclass(frozen=True)
class Timing:
    """One request's timings by the server's own clock, or the ``problem`` that it met.

    ``alone``: whether nobody else was served meanwhile; None where the server does not show its slots.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    prompt_per_second: float = 0.0
    generation_per_second: float = 0.0
    alone: bool | None = None
    problem: str = ""


def speed_flags(arguments: Sequence[str]) -> tuple[str, ...]:
    """A server's command line without its program, names and addresses: what its speed may depend on."""
    flags: list[str] = []
    words = iter(arguments[1:])
    for word in words:
        if word in _NAMES:
            next(words, None)
        else:
            flags.append(word)
    return tuple(flags)


def release_of(arguments: Sequence[str]) -> str:
    """``<commit>-<build key>`` of the release a server's command line begins with."""
    return PurePosixPath(arguments[0]).parents[1].name if arguments and arguments[0].count("/") > 2 else ""


def speed(rates: Iterable[float]) -> Speed:
    """Tokens per second of several runs, to four significant digits and more than any clock is good for."""
    ordered = [float(f"{rate:.5g}") for rate in sorted(rates)]
    return Speed(median=float(f"{statistics.median(ordered):.5g}"), lowest=ordered[0], highest=ordered[-1])


@dataclass(frozen=True)
class Comparison:
    """A timing against an earlier one; changes are shares, -0.05 is five percent slower."""

    earlier: BenchEntry
    prompt: float
    generation: float

    @property
    def is_slower(self) -> bool:
        """Whether more was lost than chance takes."""
        return min(self.prompt, self.generation) < -TOLERATED_DROP

    def __str__(self) -> str:
        return f"prompt {100 * self.prompt:+.1f} %, generation {100 * self.generation:+.1f} %"


def compared(entry: BenchEntry, ledger: Sequence[BenchEntry]) -> Comparison | None:
    """Against the last timing of the same model, build and flags on the same box at the same depth; None: the first."""
    earlier = [other for other in ledger if other.key == entry.key and _depth(other) == _depth(entry)]
    return _comparison(entry, earlier[-1]) if earlier else None


def compared_with_another(entry: BenchEntry, ledger: Sequence[BenchEntry]) -> Comparison | None:
    """Against the last timing of the same model on the same box that had another build or other flags."""
    earlier = [
        other
        for other in ledger
        if (other.box, other.model) == (entry.box, entry.model)
        and other.key != entry.key
        and _depth(other) == _depth(entry)
    ]
    return _comparison(entry, earlier[-1]) if earlier else None


def _depth(entry: BenchEntry) -> tuple[int, int]:
    return (entry.conditions.prompt_tokens, entry.conditions.generated_tokens)


def _comparison(entry: BenchEntry, earlier: BenchEntry) -> Comparison:
    return Comparison(
        earlier,
        prompt=entry.prompt.median / earlier.prompt.median - 1,
        generation=entry.generation.median / earlier.generation.median - 1,
    )


def changed_conditions(now: Conditions, then: Conditions) -> list[str]:
    """What is different from then and may be the reason, in words."""
    said = []
    if now.driver != then.driver:
        said.append(f"driver {then.driver or 'unknown'} -> {now.driver or 'unknown'}")
    if now.ram_mts != then.ram_mts:
        said.append(f"RAM {_mts(then.ram_mts)} -> {_mts(now.ram_mts)}")
    if [card.name for card in now.cards] != [card.name for card in then.cards]:
        said.append(f"cards {_cards(then)} -> {_cards(now)}")
    else:
        said += [
            f"power limit of {card.name} {_watts(earlier.power_limit_w)} -> {_watts(card.power_limit_w)}"
            for card, earlier in zip(now.cards, then.cards, strict=True)
            if card.power_limit_w != earlier.power_limit_w
        ]
    if now.beside != then.beside:
        said.append(f"beside it {', '.join(then.beside) or 'nothing'} -> {', '.join(now.beside) or 'nothing'}")
    return said


def changed_flags(now: BenchEntry, then: BenchEntry) -> list[str]:
    """Build and flags that are different, in words."""
    said = [f"build {then.release[:12]} -> {now.release[:12]}"] if now.release != then.release else []
    before, after = _by_flag(then.flags), _by_flag(now.flags)
    for flag in [*before, *(flag for flag in after if flag not in before)]:
        if before.get(flag) != after.get(flag):
            said.append(f"{flag} {before.get(flag, 'not given')} -> {after.get(flag, 'not given')}")
    return said


def _by_flag(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    flag = ""
    for word in words:
        if word.startswith("--"):
            flag = word
            found.setdefault(flag, "")
        else:
            found[flag] = f"{found.get(flag, '')} {word}".strip()
    return {flag: value or "given" for flag, value in found.items()}


def conditions_line(entry: BenchEntry) -> str:
    """Under which conditions a table's row was measured, in one line."""
    at = entry.conditions
    parts = [f"{entry.runs} {'run' if entry.runs == 1 else 'runs'} after one to warm up", at.date]
    parts += [f"driver {at.driver}"] if at.driver else []
    parts += [_cards(at) if at.cards else "no GPU"]
    parts += [f"RAM {_mts(at.ram_mts)}"] if at.ram_mts else []
    parts += [f"beside {', '.join(at.beside)}"] if at.beside else []
    return f"{entry.model}: {'; '.join(parts)}; llama.cpp {entry.release[:12]}"


def _cards(at: Conditions) -> str:
    said = [card.name + (f" at {_watts(card.power_limit_w)}" if card.power_limit_w else "") for card in at.cards]
    return ", ".join(said) or "none"


def _watts(limit: float | None) -> str:
    return "unknown" if limit is None else f"{limit:.0f} W"


def _mts(rate: int | None) -> str:
    return "unknown" if rate is None else f"{rate} MT/s"


def table(rows: Sequence[tuple[BenchEntry, Comparison | None]]) -> list[str]:
    """Medians with lowest and highest in brackets, a row a model, and how they stand to the last time."""
    cells = [("model", "depth", "prompt t/s", "generation t/s", "against the last time")]
    for entry, comparison in rows:
        verdict = "the first of its kind"
        if comparison is not None:
            verdict = f"{comparison.earlier.conditions.date[:10]}: {comparison}"
            verdict += "  SLOWER" if comparison.is_slower else ""
        depth = f"{entry.conditions.prompt_tokens}+{entry.conditions.generated_tokens}"
        cells.append((entry.model, depth, _shown(entry.prompt), _shown(entry.generation), verdict))
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _shown(speed: Speed) -> str:
    return f"{_rate(speed.median)} ({_rate(speed.lowest)}-{_rate(speed.highest)})"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
