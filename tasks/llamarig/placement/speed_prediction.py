"""Predicts tokens per second of a placement from timings of other placements on this box.

The model: milliseconds a token = a + bytes read from RAM / bandwidth. ``a`` is the time that does not depend on the
placement (GPU, attention, launches, copies between devices); the rest is reading experts at the speed of the RAM. Both
constants are fitted to timings of this model on this box and build; without timings there is no prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, linear_regression, pstdev

from llamarig.placement.tensor_overrides import tensors_in_ram
from llamarig.records.bench_ledger import BenchEntry
from llamarig.remote.shared.gguf_header import Header, Value

_LONG_NAMES = {"-ngl": "--n-gpu-layers", "-ot": "--override-tensor"}


def ram_bytes_per_token(arguments: Sequence[str], header: Header) -> float | None:
    """Bytes of weights read from RAM for one token: the used share of the experts, and everything else.

    Not counted: the token embedding, of which a token reads one row, and layers of multi-token prediction, unless
    draft-mtp computes them. None if llama.cpp decides the placement when it loads, or the header does not tell how many
    experts a token uses.

    :param arguments: of llama-server as llamarig writes them, or of llama-fit-params as it prints them
    """
    flags = {_LONG_NAMES.get(flag, flag): value for flag, value in pairwise(arguments) if flag.startswith("-")}
    if flags.get("--fit", "on") == "on" or not flags.get("--n-gpu-layers", "").isdigit():
        return None
    in_ram = tensors_in_ram(flags, header, mtp="draft-mtp" in flags.get("--spec-type", "").split(","))
    experts = sum(tensor.size for tensor in in_ram if "exps." in tensor.name)
    rest = sum(tensor.size for tensor in in_ram if "exps." not in tensor.name)
    if not experts:
        return float(rest)
    share = _used_share(header.metadata)
    return None if share is None else rest + experts * share


def _used_share(metadata: Mapping[str, Value]) -> float | None:
    """The share of its experts that a token uses; None if the header does not tell."""
    kind = metadata.get("general.architecture")
    used, count = metadata.get(f"{kind}.expert_used_count"), metadata.get(f"{kind}.expert_count")
    if isinstance(used, int) and isinstance(count, int) and 0 < used <= count:
        return used / count
    return None


@dataclass(frozen=True)
class Calibration:
    """``fixed_ms`` a token and ``gb_per_s`` (10^9 bytes) of RAM, fitted to ``runs`` timings; ``assumed``: assumption
    made."""

    fixed_ms: float
    gb_per_s: float
    runs: int
    assumed: str = ""

    def ms_per_token(self, ram_bytes: float) -> float:
        """Milliseconds a token for a placement that reads ``ram_bytes`` from RAM a token."""
        return self.fixed_ms + ram_bytes / self.gb_per_s / 1e6

    def tokens_per_second(self, ram_bytes: float) -> float:
        """Tokens per second for the same placement."""
        return 1000 / self.ms_per_token(ram_bytes)

    def __str__(self) -> str:
        runs = f"{self.runs} {'run' if self.runs == 1 else 'runs'}"
        constants = f"{self.fixed_ms:.2f} ms a token and {self.gb_per_s:.1f} GB/s of RAM"
        return f"calibrated on {runs}: {constants}" + (f" ({self.assumed})" if self.assumed else "")


def speed_lines(calibration: Calibration | None, placements: Sequence[tuple[str, float | None]]) -> list[str]:
    """A line for each placement, the fastest first, and one for the calibration; empty without a calibration.

    None for a placement that reads nothing from RAM, where the calibration assumes that only the RAM takes time.

    :param placements: name of each, and the bytes it reads from RAM a token (None if unknown)
    """
    if calibration is None:
        return []
    known = sorted(
        (reads, name) for name, reads in placements if reads is not None and calibration.ms_per_token(reads) > 0
    )
    rates = [
        f"{name}: {calibration.tokens_per_second(reads):.1f} tokens/s "
        f"({calibration.ms_per_token(reads):.2f} ms, {reads / 1e6:.0f} MB from RAM a token)"
        for reads, name in known
    ]
    return [*rates, str(calibration)] if rates else []


def calibration_runs(
    ledger: Sequence[BenchEntry], *, box: str, model: str, release: str, file: str
) -> list[tuple[float, float]]:
    """(bytes read from RAM a token, milliseconds a token) of the timings that a calibration may use.

    These are timings of this model file on this box and build: the newest for each set of flags, all with the prompt
    length of the newest, because a token takes longer in a longer context.

    :param file: path of the model on the box, as in ``--model``
    """
    return runs_of_files([entry for entry in ledger if entry.model == model], box, release, lambda path: path == file)


def runs_of_files(
    ledger: Sequence[BenchEntry], box: str, release: str, is_file: Callable[[str], bool]
) -> list[tuple[float, float]]:
    """The same of every model file that ``is_file`` accepts, whatever the model is called.

    :param is_file: of the path of a model on the box
    """
    usable = [
        entry
        for entry in ledger
        if (entry.box, entry.release) == (box, release)
        and entry.ram_bytes_per_token is not None
        and any(flag == "--model" and is_file(path) for flag, path in pairwise(entry.flags))
    ]
    newest: dict[tuple[str, ...], BenchEntry] = {}
    for entry in usable:
        if entry.conditions.prompt_tokens == usable[-1].conditions.prompt_tokens:
            newest[entry.flags] = entry
    return [
        (entry.ram_bytes_per_token or 0.0, 1000 / entry.generation.median)
        for entry in newest.values()
        if entry.generation is not None
    ]


def calibrate(runs: Sequence[tuple[float, float]]) -> Calibration | None:
    """Fit the constants by least squares; None if the timings do not determine the speed of the RAM.

    :param runs: (bytes read from RAM a token, milliseconds a token)

    One timing cannot separate the two constants, so it is assumed that only the RAM takes time, which makes every
    predicted gain an upper bound. The same if the fit would make ``fixed_ms`` negative.
    """
    if not runs:
        return None
    sizes, times = [size for size, _ in runs], [ms for _, ms in runs]
    # Placements that differ by a thousandth differ less than two timings of the same placement.
    if pstdev(sizes) > fmean(sizes) / 1000:
        slope, fixed = linear_regression(sizes, times)
        if slope <= 0:
            return None
        if fixed >= 0:
            return Calibration(fixed, 1 / slope / 1e6, len(runs))
    squares = sum(size * size for size in sizes)
    if squares <= 0:
        return None
    slope = sum(size * ms for size, ms in runs) / squares
    return Calibration(0.0, 1 / slope / 1e6, len(runs), "assumed: only the RAM takes time, so a gain is an upper bound")
