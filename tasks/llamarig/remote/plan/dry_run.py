"""Runs llama-fit-params and collects its complete output: memory on stdout, and the splits of the graph in its log.

    python3 -m llamarig.remote.plan.dry_run SECONDS PROGRAM ARGUMENT...

prints the relevant lines, then ``exit=`` and the exit status.

A thread of the program writes its log, and the pinned commit does not wait for that thread at exit (common/log.cpp):
up to 512 lines, including those about the graph, may be lost. Therefore its stdout is a pipe that is already full: the
program blocks in its last step, writing the result, until its log is complete and the pipe is read.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time

_F_SETPIPE_SZ = 1031
"""Linux's F_SETPIPE_SZ, which Python 3.9's fcntl lacks."""
_PAGE = 4096
_POLL_S = 0.01
_LOG_IDLE_S = 5
"""Seconds without a new line after which a log is taken for complete although the last line is missing."""
_LAST_LINE = re.compile(rb"splits = \d+")
_RELEVANT = re.compile(
    rb"splits = |layer +\d+: dev = |layer +\d+ assigned to device |\d+ layers, |SWA KV|"
    rb"[Ee]rror|[Ff]ail|\babort\b|exception|terminate|not found|invalid"
)


def _full_pipe() -> tuple[int, int, int]:
    """Create a full pipe; return its reading end, its writing end, and the number of filler bytes in it."""
    reading, writing = os.pipe()
    size = fcntl.fcntl(writing, _F_SETPIPE_SZ, _PAGE)
    os.write(writing, bytes(size))
    return reading, writing, size


def run(seconds: float, command: list[str]) -> tuple[bytes, bytes, int]:
    """Run a command; return its stdout, its log and its exit status.

    :param seconds: time limit; a longer run is killed and has the status 124
    """
    reading, writing, filled = _full_pipe()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writing, stderr=log)
        os.close(writing)
        deadline = time.monotonic() + seconds
        length = 0
        idle_since = time.monotonic()
        status = None
        while time.monotonic() < deadline:
            text = os.pread(log.fileno(), 1 << 26, 0)
            if _LAST_LINE.search(text) or process.poll() is not None:
                break
            if len(text) != length:
                length, idle_since = len(text), time.monotonic()
            elif length and time.monotonic() - idle_since > _LOG_IDLE_S:
                break
            time.sleep(_POLL_S)
        else:
            process.kill()
            status = 124
        with os.fdopen(reading, "rb") as pipe:
            output = pipe.read()[filled:]
        ended = process.wait()
        return output, os.pread(log.fileno(), 1 << 26, 0), ended if status is None else status


def relevant_lines(seconds: float, command: list[str]) -> list[str]:
    """Run a command; return the relevant lines of its output, and ``exit=`` with its exit status."""
    try:
        output, log, status = run(seconds, command)
    except OSError as error:
        return [f"error: {command[0]}: {error.strerror}", "exit=127"]
    lines = [line for line in log.splitlines() if _RELEVANT.search(line)]
    printed = [line.decode(errors="replace") for line in [*lines[-2000:], *output.splitlines()[-200:]]]
    return [*printed, f"exit={status if status >= 0 else 128 - status}"]


def main(arguments: list[str]) -> int:
    """Run the program and print the relevant lines of its output."""
    seconds, *command = arguments
    for line in relevant_lines(float(seconds), command):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
