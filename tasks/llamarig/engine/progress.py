"""A job's status as one line: the step, how much of it is done, the rate and the time left."""

from __future__ import annotations

from llamarig.remote.shared.jobs import JobStatus


def progress_line(status: JobStatus) -> str:
    """For example ``downloading x.gguf: 3.20 of 20.00 GiB (16 %), 41.0 MB/s, 7 min left``."""
    step, done, total, unit = status.step, status.done, status.total, status.unit
    if total <= 0:
        return step
    shown = (
        f"{done / 1024**3:.2f} of {total / 1024**3:.2f} GiB" if unit == "bytes" else f"{done}/{total} {unit}".rstrip()
    )
    line = f"{step}: {shown} ({100 * done // total} %)"
    seconds, moved = status.now - status.step_started, done - status.done_at_start
    if seconds < 2 or moved <= 0 or unit not in ("bytes", "objects"):
        return line  # no steady rate to estimate the time left from
    rate = moved / seconds
    if unit == "bytes":
        line += f", {rate / 1e6:.1f} MB/s"
    return f"{line}, {duration((total - done) / rate)} left"


def duration(seconds: float) -> str:
    """Seconds in the largest unit that keeps it a small number."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
