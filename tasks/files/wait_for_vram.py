"""Waits until the GPUs' memory is no longer being given back: run by a unit before its server starts.

systemd stops a conflicting server before it starts this one, but a driver gives tens of gigabytes back some time after
the process is gone, and a server that measures free memory meanwhile places fewer layers, or does not load at all.
Bounded, and never a reason not to start. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import operator
import subprocess
import time

LONGEST_S = 30.0
POLL_S = 0.5
NOISE_MIB = 16
"""A display driver takes and gives as much all the time."""
QUIET_POLLS = 2


def used_mib() -> list[int] | None:
    """MiB in use on each GPU; None where nvidia-smi is missing, or says nothing."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return [int(line) for line in lines] if done.returncode == 0 and all(line.isdigit() for line in lines) else None


def main() -> None:
    """Poll until nothing has fallen for a second."""
    began = time.monotonic()
    before, quiet = used_mib(), 0
    first = before
    while before is not None and quiet < QUIET_POLLS:
        if time.monotonic() - began > LONGEST_S:
            print(f"GPU memory is still being given back after {LONGEST_S:.0f} s ({before} MiB in use); starting")
            return
        time.sleep(POLL_S)
        now = used_mib()
        if now is None:
            return
        quiet = 0 if any(given_back > NOISE_MIB for given_back in map(operator.sub, before, now)) else quiet + 1
        before = now
    if first and before and sum(first) - sum(before) > NOISE_MIB:
        print(f"waited {time.monotonic() - began:.1f} s for {sum(first) - sum(before)} MiB of GPU memory")


if __name__ == "__main__":
    main()
