"""Waits until a model answers: a unit's ExecStartPost, so that `systemctl start` returns when it can be used.

    wait_until_ready.py URL SECONDS

exits with 0 when the server at this URL answers /health with 200, and with 1 when the server's process has ended or the
time is over; systemd then stops the unit and calls its start failed. It runs in the sandbox of the unit, as its user.
Unit files call it by its path, so it must not be moved.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

# Started by its path and with -I, which leaves out the directory that our programs are imported from.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from llamarig.remote.serve.key_file import USABLE
from llamarig.remote.shared.server_client import Server

POLL_S = 0.25


def key_of_unit() -> str | None:
    """The first API key among the unit's credentials: with a prefix of the API, /health wants it."""
    file = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nowhere")) / "api-key"
    try:
        lines = file.read_bytes().decode("latin-1").split("\n")
    except OSError:
        return None
    return next((line for line in lines if re.fullmatch(USABLE, line)), None)


def has_ended(pid: str) -> bool:
    """Whether a process has ended, also where nobody has waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] in ("Z", "X", "")
    except OSError:
        return True


def main(url: str, seconds: str) -> int:
    """Return 0 when the model answers, else 1."""
    began, pid, server = time.monotonic(), os.environ.get("MAINPID", ""), Server(url, key_of_unit())
    while time.monotonic() - began < float(seconds):
        if server.is_healthy():
            print(f"the model answers, {time.monotonic() - began:.0f} s after its server was started")
            return 0
        if pid and has_ended(pid):
            print("the server has ended before the model answered", file=sys.stderr)
            return 1
        time.sleep(POLL_S)
    print(f"the model does not answer after {seconds} s (serve.load_timeout_s)", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
