"""Runs llama-fit-params and waits for its last words: what it takes on stdout, how its graph is split in its log.

Its log is written by a thread of its own, which the pinned commit no longer waits for at its end (common/log.cpp): up
to 512 lines, the graph's among them, are lost whenever that thread is behind. So its stdout is a pipe that is full
already: the program blocks in its very last step, while its log goes on, until the lines are there.

Runs on the box under its own Python (3.9 or newer), standard library only:

    python3 -m tasks.files.dry_run SECONDS PROGRAM ARGUMENT...

prints the lines that say something, then ``exit=`` and the program's status.
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
"""Linux's own, not in Python 3.9's fcntl."""
_PAGE = 4096
_POLL_S = 0.01
_LINGER_S = 5
"""How long a log that stays without the line is waited for once the program has nothing else left to say."""
_LAST_WORDS = re.compile(rb"splits = \d+")
_TELLING = re.compile(
    rb"splits = |layer +\d+: dev = |\d+ layers, |SWA KV|"
    rb"[Ee]rror|[Ff]ail|\babort\b|exception|terminate|not found|invalid"
)


def full_pipe() -> tuple[int, int, int]:
    """Reading end, writing end, and how many bytes are in it that nobody asked for."""
    reading, writing = os.pipe()
    size = fcntl.fcntl(writing, _F_SETPIPE_SZ, _PAGE)
    os.write(writing, bytes(size))
    return reading, writing, size


def run(seconds: float, command: list[str]) -> tuple[bytes, bytes, int]:
    """Its stdout, its log, its exit status.

    A run that takes longer than so many seconds is ended, with status 124.
    """
    reading, writing, filled = full_pipe()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writing, stderr=log)
        os.close(writing)
        deadline = time.monotonic() + seconds
        said = 0
        idle_since = time.monotonic()
        status = None
        while time.monotonic() < deadline:
            text = os.pread(log.fileno(), 1 << 26, 0)
            if _LAST_WORDS.search(text) or process.poll() is not None:
                break
            if len(text) != said:
                said, idle_since = len(text), time.monotonic()
            elif said and time.monotonic() - idle_since > _LINGER_S:
                break
            time.sleep(_POLL_S)
        else:
            process.kill()
            status = 124
        with os.fdopen(reading, "rb") as pipe:
            output = pipe.read()[filled:]
        ended = process.wait()
        return output, os.pread(log.fileno(), 1 << 26, 0), ended if status is None else status


def main(arguments: list[str]) -> int:
    """Run the program and print what of its words is asked for."""
    seconds, *command = arguments
    try:
        output, log, status = run(float(seconds), command)
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}")
        print("exit=127")
        return 0
    lines = [line for line in log.splitlines() if _TELLING.search(line)]
    for line in [*lines[-2000:], *output.splitlines()[-200:]]:
        print(line.decode(errors="replace"))
    print(f"exit={status if status >= 0 else 128 - status}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
