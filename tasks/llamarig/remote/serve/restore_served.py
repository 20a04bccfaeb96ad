"""Restores what served before a switch that ended without restoring it: it was killed, or the box lost power.

    python3 -m llamarig.remote.serve.restore_served RECORDS JOBS

It is an ExecStopPost= of every switch, so it follows SIGKILL, too. Where that kills the whole control group, a new
kernel also kills what systemd starts in it afterwards: so llamarig_restore.service is the switch's OnFailure=. The same
unit is started at boot before any model. A deploy runs the program where it finds a journal and no switch. RECORDS is
the directory of the start records and the journal, and JOBS that of all jobs. Without a journal, nothing is restored.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llamarig.remote.serve.model_units import systemctl
from llamarig.remote.serve.roll_back import roll_back_at_boot, roll_back_now
from llamarig.remote.serve.switch_journal import JOURNAL, journal_lock, unfinished_switch
from llamarig.remote.shared.admission import running_jobs
from llamarig.remote.shared.job_status import Progress
from llamarig.remote.shared.jobs import JobStatus

_WAIT_S = 30.0
"""Seconds for another restore to end."""


def restore(records: Path) -> str:
    """Restore what served; return what was done, or an empty text."""
    with journal_lock(records, wait_s=_WAIT_S):
        journal = unfinished_switch(records)
        if journal is None:
            return ""
        # At boot, the models are started after this program has ended.
        booting = systemctl("is-active", "--quiet", "basic.target") != 0
        return roll_back_at_boot(records, journal) if booting else roll_back_now(records, journal)


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


def main(records: str, jobs: str) -> int:
    """Return 1 where another restore is under way, and 2 where not all that served could be restored."""
    if any(name.startswith("switch-") for name in running_jobs(Path(jobs))):
        # This one may have ended because it was not admitted beside that one.
        print("a switch is under way: it restores by itself what it stops", file=sys.stderr)
        return 0
    try:
        result = restore(Path(records))
    except BlockingIOError:
        print("what served is being restored already", file=sys.stderr)
        return 1
    for job in Path(jobs).glob("switch-*"):
        report(job, result)
    if result:
        print(result, file=sys.stderr)
    # The journal is deleted when there is nothing left to restore.
    return 2 if (Path(records) / JOURNAL).exists() else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
