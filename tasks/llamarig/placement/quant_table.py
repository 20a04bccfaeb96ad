"""The table of tasks/choose.py: one line for each quant, in plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llamarig.declare.placement import CpuOnly
from llamarig.placement.quant_choice import QuantRow
from llamarig.placement.quant_memory import AtContext

_GIB = 1024**3
_MOST_PROBLEM = 90


def table_lines(rows: Sequence[QuantRow], devices: Sequence[str], marked: str = "") -> list[str]:
    """A heading and a line for each quant; what does not fit says by how much.

    :param rows: of one repository, all with the same contexts
    :param devices: names of the GPUs, empty where the processor serves alone
    :param marked: label of the quant that is chosen
    """
    contexts = next(([at.context for at in row.at] for row in rows if row.at), [])
    layers = next((row.shape.layers for row in rows if row.shape is not None), 0)
    about = f"whole layers of {layers} on the GPUs, by context" if devices else "whether it fits, by context"
    ends = ["context", *["VRAM GiB"] * bool(devices), "RAM GiB", "tokens/s", "download"]
    table = [_Line(["  quant", "GiB", *map(context_text, contexts), *ends])]
    table += [_row_line(row, devices, "*" if row.label == marked else " ", len(contexts)) for row in rows]
    columns = range(len(table[0].cells))
    widths = [max(len(line.cells[column]) for line in table if column < len(line.cells)) for column in columns]
    return [f"{about}; -1.5G: so many GiB too little", *(line.text(widths) for line in table)]


@dataclass(frozen=True)
class _Line:
    """The cells of a line, and a remark in place of the last ones."""

    cells: Sequence[str]
    remark: str = ""

    def text(self, widths: Sequence[int]) -> str:
        first, *numbers = [cell.ljust(width) for cell, width in zip(self.cells[:1], widths, strict=False)] + [
            cell.rjust(width) for cell, width in zip(self.cells[1:], widths[1:], strict=False)
        ]
        return "  ".join([first, *numbers, *filter(None, [self.remark])]).rstrip()


def _row_line(row: QuantRow, devices: Sequence[str], mark: str, contexts: int) -> _Line:
    head = [f"{mark} {row.label}", f"{row.size / _GIB:.1f}"]
    if not row.at:
        return _Line([*head, *[""] * contexts], _clipped(row.problem))
    head += map(context_cell, row.at)
    best = row.best
    if best is None:
        return _Line(head, shortage(row.at[0], devices))
    vram = [" + ".join(f"{mib / 1024:.1f}" for mib in best.vram_mib)] if devices else []
    ends = [context_text(best.context), *vram, f"{best.ram_mib / 1024:.1f}", row.speed or "?", _download(row)]
    return _Line([*head, *ends])


def context_cell(at: AtContext) -> str:
    """What a context comes to: whole layers, ``yes`` without GPUs, or how many GiB are missing in all."""
    if at.problem:
        return "?"
    if at.fits:
        return "yes" if isinstance(at.placement, CpuOnly) else str(at.whole)
    return f"-{(sum(at.over_mib) + at.ram_over_mib) / 1024:.1f}G"


def shortage(at: AtContext, devices: Sequence[str]) -> str:
    """What is missing for a context, in words."""
    if at.problem:
        return _clipped(at.problem)
    parts = [f"{name} {mib / 1024:.1f} GiB short" for name, mib in zip(devices, at.over_mib, strict=False) if mib]
    if at.ram_over_mib:
        parts.append(f"RAM {at.ram_over_mib / 1024:.1f} GiB short")
    return f"does not fit with {context_text(at.context)}: {', '.join(parts)}"


def context_text(context: int) -> str:
    """A context as in the heading: ``128K``."""
    return f"{context // 1024}K" if context % 1024 == 0 else str(context)


def _download(row: QuantRow) -> str:
    seconds = row.download_s
    if seconds is None:
        return "on the box"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _clipped(text: str) -> str:
    return text if len(text) <= _MOST_PROBLEM else f"{text[: _MOST_PROBLEM - 3]}..."


def cache_notes(rows: Sequence[QuantRow]) -> Iterator[str]:
    """Notes on the rows: prompt caches that are smaller than llama.cpp's own."""
    for row in rows:
        if (best := row.best) is not None and best.cache_ram_mib is not None:
            yield f"{row.label}: the RAM has room for a prompt cache of {best.cache_ram_mib} MiB, so that is declared"
