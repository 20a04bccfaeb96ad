"""Compares timings of a served model with earlier ones, and formats them as a table."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from llamarig.declare.rig import Rig
from llamarig.facts.gpus import GpuState
from llamarig.items.cards_in_use import large
from llamarig.records.bench_ledger import BenchEntry, TokenRate
from llamarig.records.timing_changes import shown_cards, shown_mts

TOLERATED_DROP = 0.05
"""Medians of consecutive runs differ by 1 to 2 % on an idle box; a larger loss than this has a cause."""


def speed(rates: Iterable[float]) -> TokenRate:
    """Median, lowest and highest of several rates, in tokens per second to five significant digits."""
    ordered = [float(f"{rate:.5g}") for rate in sorted(rates)]
    return TokenRate(median=float(f"{statistics.median(ordered):.5g}"), lowest=ordered[0], highest=ordered[-1])


@dataclass(frozen=True)
class Comparison:
    """A timing compared with an earlier one. Changes are fractions: -0.05 is five percent slower."""

    earlier: BenchEntry
    prompt: float
    generation: float | None
    """None for a model that generates nothing."""

    @property
    def is_slower(self) -> bool:
        """Whether either speed dropped by more than the spread of the measurement."""
        return min(self.prompt, self.generation or 0.0) < -TOLERATED_DROP

    def __str__(self) -> str:
        prompt = f"prompt {100 * self.prompt:+.1f} %"
        return prompt if self.generation is None else f"{prompt}, generation {100 * self.generation:+.1f} %"


def compare_with_previous(entry: BenchEntry, ledger: Sequence[BenchEntry]) -> Comparison | None:
    """Compare with the last timing of the same model, build, flags and box at the same depth; None if there is none."""
    earlier = [other for other in ledger if other.key == entry.key and _depth(other) == _depth(entry)]
    return _comparison(entry, earlier[-1]) if earlier else None


def compare_with_other_build(entry: BenchEntry, ledger: Sequence[BenchEntry]) -> Comparison | None:
    """Compare with the last timing of the same model on the same box with another build or other flags."""
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
    generation = None
    if entry.generation is not None and earlier.generation is not None:
        generation = entry.generation.median / earlier.generation.median - 1
    return Comparison(earlier, entry.prompt.median / earlier.prompt.median - 1, generation)


def untried_settings(rig: Rig, models: Collection[str], gpus: GpuState) -> list[str]:
    """Settings of timed models that may be faster on these GPUs, depending on the card: only timing tells.

    GGML_VK_ALLOW_GRAPHICS_QUEUE: "it can increase performance on RADV" (ggml-vulkan.cpp, pinned commit). On an RX
    9070 XT tokens came 1 to 5 % faster, and prompts up to 3 % slower (llama.cpp #20551).
    """
    variable = "GGML_VK_ALLOW_GRAPHICS_QUEUE"
    if gpus.gpus or not large(gpus.amd):
        return []
    return [
        f'{model.name}: environment={{"{variable}": "1"}} gave 1 to 5 % more tokens/s on an RX 9070 XT, and up to 3 % '
        "less prompt speed (llama.cpp #20551): declare it, deploy, and time again"
        for model in rig.models
        if model.name in models and rig.build_of(model).backend == "vulkan" and variable not in model.serve.environment
    ]


def conditions_line(entry: BenchEntry) -> str:
    """One line with the conditions under which a row of the table was measured."""
    at = entry.conditions
    parts = [f"{entry.runs} {'run' if entry.runs == 1 else 'runs'} after one to warm up", at.date]
    parts += [f"driver {at.driver}"] if at.driver else []
    parts += [shown_cards(at) if at.cards else "no GPU"]
    parts += [f"RAM {shown_mts(at.ram_mts)}"] if at.ram_mts else []
    parts += [f"Linux {at.kernel}"] if at.kernel else []
    parts += [f"slowed down: {', '.join(at.throttled)}"] if at.throttled else []
    parts += [f"beside {', '.join(at.beside)}"] if at.beside else []
    return f"{entry.model}: {'; '.join(parts)}; llama.cpp {entry.release[:12]}"


def second_turn_line(entry: BenchEntry) -> str:
    """How long the next turn of a conversation waits for its first token; empty where that was not timed."""
    turn = entry.second_turn
    if turn is None:
        return ""
    return (
        f"{entry.model}: second turn: {turn.seconds:.3g} s to its first token; {turn.computed} of {turn.tokens} tokens "
        "were computed, the others came out of the cache"
    )


def table(rows: Sequence[tuple[BenchEntry, Comparison | None]]) -> list[str]:
    """A row for each model: medians with lowest and highest in brackets, and the change since the last timing."""
    cells = [("model", "depth", "prompt t/s", "generation t/s", "change since the last run")]
    for entry, comparison in rows:
        verdict = "no earlier run"
        if comparison is not None:
            verdict = f"{comparison.earlier.conditions.date[:10]}: {comparison}"
            verdict += "  SLOWER" if comparison.is_slower else ""
        depth = f"{entry.conditions.prompt_tokens}+{entry.conditions.generated_tokens}"
        cells.append((entry.model, depth, _with_range(entry.prompt), _with_range(entry.generation), verdict))
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def rates(entry: BenchEntry) -> str:
    """The medians of a timing, in words."""
    generation = f" and {entry.generation.median:g}" if entry.generation is not None else ""
    return f"{entry.prompt.median:g}{generation} tokens/s"


def _with_range(speed: TokenRate | None) -> str:
    if speed is None:
        return "-"
    return f"{_rate(speed.median)} ({_rate(speed.lowest)}-{_rate(speed.highest)})"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
