"""Restores what served before a switch that ended without restoring it: it was killed, or the box lost power.

    python3 -m llamarig.remote.serve.restore_served after-switch RECORDS JOB
    python3 -m llamarig.remote.serve.restore_served at-boot RECORDS

The first is an ExecStopPost= of every switch, so it also follows SIGKILL; JOB is the directory of the switch's status.
A deploy runs it, too, where it finds a journal and no switch. The second is a unit that is started at boot before any
model. RECORDS is the directory of the start records and the journal. Without a journal, both do nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llamarig.remote.serve.roll_back import roll_back_at_boot, roll_back_now
from llamarig.remote.serve.switch_journal import journal_lock, unfinished_switch
from llamarig.remote.shared.job_status import Progress
from llamarig.remote.shared.jobs import JobStatus

_WAIT_S = 30.0
"""Seconds for another restore to end."""


def restore(records: Path, *, at_boot: bool) -> str:
    """Restore what served; return what was done, or an empty text."""
    with journal_lock(records, wait_s=_WAIT_S):
        journal = unfinished_switch(records)
        if journal is None:
            return ""
        return roll_back_at_boot(records, journal) if at_boot else roll_back_now(records, journal)


def report(job: Path, result: str) -> None:
    """Complete the status of a switch that could not write its own end."""
    try:
        status = JobStatus.from_stored(json.loads((job / "status.json").read_text()))
    except (OSError, ValueError):
        return
    if status.state == "running":
        ended = "killed before it was finished"
        progress = Progress(job, status)
        progress.must_write = False  # a full disk may be the reason
        progress.end("failed", f"{ended}; {result}" if result else ended, [f"its last step: {status.step}"])


def main(when: str, records: Path, job: Path | None = None) -> int:
    """Return 1 where a switch or another restore is under way."""
    try:
        result = restore(records, at_boot=when == "at-boot")
    except BlockingIOError:
        print("a switch is under way: it restores by itself what it stops", file=sys.stderr)
        return 1
    if job is not None:
        report(job, result)
    if result:
        print(result, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *map(Path, sys.argv[3:4])))
