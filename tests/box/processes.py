"""Processes of this machine, by their ids."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def runs(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    state = text_of(pid, "stat").rpartition(")")[2].split()
    return bool(state) and state[0] not in ("Z", "X")


def strings_of(pid: int, name: str) -> list[str]:
    """Return the NUL-separated strings of a file in /proc/PID."""
    return text_of(pid, name).split("\0")


def text_of(pid: int, name: str) -> str:
    """Return a file in /proc/PID; empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send a signal, unless the process has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
