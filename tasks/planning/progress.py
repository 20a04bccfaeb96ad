"""A job's status as one line a person reads: what, how far, how fast, how long still."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def progress_line(status: Mapping[str, Any]) -> str:
    """For example ``downloading x.gguf: 3.20 of 20.00 GiB (16 %), 41.0 MB/s, 7 min left``.

    ``done``, ``total`` are in the status's unit; times in it are seconds since 1970 on the box's own clock.
    """
    step = str(status.get("step", ""))
    done, total = int(status.get("done") or 0), int(status.get("total") or 0)
    if total <= 0:
        return step
    unit = status.get("unit", "")
    shown = (
        f"{done / 1024**3:.2f} of {total / 1024**3:.2f} GiB" if unit == "bytes" else f"{done}/{total} {unit}".rstrip()
    )
    line = f"{step}: {shown} ({100 * done // total} %)"
    seconds = float(status.get("now") or 0) - float(status.get("step_started") or 0)
    moved = done - int(status.get("done_at_start") or 0)
    if seconds < 2 or moved <= 0 or unit not in ("bytes", "objects"):
        return line  # nothing that goes on evenly
    rate = moved / seconds
    if unit == "bytes":
        line += f", {rate / 1e6:.1f} MB/s"
    return f"{line}, {duration((total - done) / rate)} left"


def duration(seconds: float) -> str:
    """Seconds in the largest unit that keeps it a small number."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
