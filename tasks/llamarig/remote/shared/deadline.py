"""Runs a command that may hang, with a deadline that also holds where the kernel does not let it be killed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


def run_within(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its output.

    :raises subprocess.TimeoutExpired: after that time. The process is killed and, unlike by `subprocess.run`, not
        waited for: one that waits in a GPU driver ends when the driver lets it
    :raises OSError: when it cannot be started
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
