"""How long a token would take with another placement, from how long tokens really took on this box.

The model: milliseconds a token = a + bytes read from RAM / bandwidth. ``a`` is everything that does not change with
the placement (GPU, attention, launching, copying between devices), the rest is the experts in RAM, at the RAM's speed.
Both constants come from measured runs of this model on this box and build, or nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tasks.spec.bench_ledger import BenchEntry


@dataclass(frozen=True)
class Calibration:
    """``fixed_ms`` a token and ``gb_per_s`` (10^9 bytes) of RAM, from ``runs`` timings; ``assumed`` in words."""

    fixed_ms: float
    gb_per_s: float
    runs: int
    assumed: str = ""

    def ms_per_token(self, ram_bytes: float) -> float:
        """For a placement that reads so many bytes from RAM a token."""
        return self.fixed_ms + ram_bytes / self.gb_per_s / 1e6

    def tokens_per_second(self, ram_bytes: float) -> float:
        """The same, as a rate."""
        return 1000 / self.ms_per_token(ram_bytes)

    def __str__(self) -> str:
        said = f"calibrated on {self.runs} {'run' if self.runs == 1 else 'runs'}: {self.fixed_ms:.2f} ms a token and "
        return said + f"{self.gb_per_s:.1f} GB/s of RAM" + (f" ({self.assumed})" if self.assumed else "")


def speed_lines(calibration: Calibration | None, placements: Sequence[tuple[str, float | None]]) -> list[str]:
    """What each placement would come to, the fastest first, and what that is calibrated on; nothing without runs.

    :param placements: what each is called, and the bytes it reads from RAM a token (None where that is not known)
    """
    if calibration is None:
        return []
    known = sorted((reads, name) for name, reads in placements if reads is not None)
    rates = [
        f"{name}: {calibration.tokens_per_second(reads):.1f} tokens/s "
        f"({calibration.ms_per_token(reads):.2f} ms, {reads / 1e6:.0f} MB from RAM a token)"
        for reads, name in known
    ]
    return [*rates, str(calibration)] if rates else []


def measured(
    ledger: Sequence[BenchEntry], *, box: str, model: str, release: str, file: str
) -> list[tuple[float, float]]:
    """(bytes read from RAM a token, milliseconds a token) of the timings a calibration may use.

    Those of this model file on this box and build, the newest for each set of flags, and all at the depth of the
    newest: a token costs more the deeper it is.

    :param file: path of the model on the box, as ``--model`` names it
    """
    usable = [
        entry
        for entry in ledger
        if (entry.box, entry.model, entry.release) == (box, model, release)
        and entry.ram_bytes_per_token is not None
        and ("--model", file) in pairwise(entry.flags)
    ]
    newest: dict[tuple[str, ...], BenchEntry] = {}
    for entry in usable:
        if entry.conditions.prompt_tokens == usable[-1].conditions.prompt_tokens:
            newest[entry.flags] = entry
    return [(entry.ram_bytes_per_token or 0.0, 1000 / entry.generation.median) for entry in newest.values()]


def calibrated(runs: Sequence[tuple[float, float]]) -> Calibration | None:
    """Least squares over (bytes, milliseconds); None where these runs cannot say how fast the RAM is.

    One run cannot tell the two constants apart: it is then assumed that nothing but the RAM takes time, which makes
    every gain by another placement an upper bound. The same where a fit would make ``fixed_ms`` negative.
    """
    if not runs:
        return None
    count = len(runs)
    mean_bytes, mean_ms = sum(size for size, _ in runs) / count, sum(ms for _, ms in runs) / count
    spread = sum((size - mean_bytes) ** 2 for size, _ in runs)
    # Placements a thousandth apart differ by less than two runs of the same one.
    if spread > count * (mean_bytes / 1000) ** 2:
        slope = sum((size - mean_bytes) * (ms - mean_ms) for size, ms in runs) / spread
        if slope <= 0:
            return None
        fixed = mean_ms - slope * mean_bytes
        if fixed >= 0:
            return Calibration(fixed, 1 / slope / 1e6, count)
    squares = sum(size * size for size, _ in runs)
    if squares <= 0:
        return None
    slope = sum(size * ms for size, ms in runs) / squares
    return Calibration(0.0, 1 / slope / 1e6, count, "assumed: only the RAM takes time, so a gain is an upper bound")
