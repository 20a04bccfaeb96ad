"""Waits until the driver has released the GPU memory of a stopped server: a unit's ExecStartPre.

systemd stops a conflicting server before it starts this one, but the driver releases tens of gigabytes some time after
the process has ended. A server that reads the free memory before that places fewer layers on the GPU, or fails to
load. The wait is limited, and no result of it prevents the start.

Unit files call this file by its path, so it must not be moved.
"""

from __future__ import annotations

import operator
import subprocess
import time

LONGEST_S = 30.0
POLL_S = 0.5
NOISE_MIB = 16
"""Smaller changes are ignored: a display causes them all the time."""
QUIET_POLLS = 2


def _used_mib() -> list[int] | None:
    """Return the MiB in use on each GPU; None where nvidia-smi is missing or fails."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return [int(line) for line in lines] if done.returncode == 0 and all(line.isdigit() for line in lines) else None


def main() -> None:
    """Poll until the memory in use has stopped falling for a second."""
    began = time.monotonic()
    before, quiet = _used_mib(), 0
    first = before
    while before is not None and quiet < QUIET_POLLS:
        if time.monotonic() - began > LONGEST_S:
            print(f"GPU memory is still being released after {LONGEST_S:.0f} s ({before} MiB in use); starting")
            return
        time.sleep(POLL_S)
        now = _used_mib()
        if now is None:
            return
        quiet = 0 if any(released > NOISE_MIB for released in map(operator.sub, before, now)) else quiet + 1
        before = now
    if first and before and sum(first) - sum(before) > NOISE_MIB:
        print(
            f"waited {time.monotonic() - began:.1f} s for {sum(first) - sum(before)} MiB of GPU memory to be released"
        )


if __name__ == "__main__":
    main()
