"""Keeps jobs off the box that would spoil what the control machine does there: planning, or deleting leftovers.

A plan counts the memory of what runs, and its dry runs need a part of each GPU: a switch in between would spoil both.
What nothing uses may be used by the next job. The control machine does that work, so this job has no other than to be
there (shared/admission.py). It is stopped when the work is done. Where the control machine is lost it ends by itself,
some time after the last dry run.
"""

from __future__ import annotations

import time
from pathlib import Path

from llamarig.remote.shared.job_status import Progress, run_job
from llamarig.remote.shared.jobs import ReservationJob

_POLL_S = 0.5


def reserve(job: ReservationJob, progress: Progress) -> str:
    """Wait until the file that each dry run touches has not changed for a while."""
    progress.step("reserved")
    # By changes of its time, not by its age: clocks of boxes are set.
    last, since = _touched(job), time.monotonic()
    while time.monotonic() - since < job.idle_s:
        time.sleep(_POLL_S)
        if (touched := _touched(job)) != last:
            last, since = touched, time.monotonic()
    return f"no dry run for {job.idle_s:.0f} s"


def _touched(job: ReservationJob) -> int:
    try:
        return Path(job.touched).stat().st_mtime_ns
    except OSError:
        return 0


if __name__ == "__main__":
    run_job(ReservationJob, reserve)
