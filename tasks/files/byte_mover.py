"""The watcher's side of tasks/files/move_bytes.py: one child process a file, and the rate limit they all share.

Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.files.move_bytes import bytes_written

_TOKEN_BYTES = 64 * 1024
"""What one token pays for; move_bytes.READ."""
_TICK_S = 0.05
_MIB = 1024**2


class Mover:
    """A child process at work on one file. It dies with its parent, and holds the store's lock while it lives."""

    def __init__(self, order: dict[str, Any], lock: int) -> None:
        descriptors = [lock] if order["tokens"] is None else [lock, order["tokens"]]
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-m", "tasks.files.move_bytes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(order["proxy"]),
            pass_fds=descriptors,
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({**order, "parent": os.getpid()}).encode() + b"\n")
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it ended at once; its exit code says so

    def ended(self, within_s: float) -> bool:
        """Wait so many seconds at most; whether it has ended."""
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def code(self) -> int:
        """Its exit status, negative for a signal."""
        return self._process.returncode or 0

    @property
    def written(self) -> int | None:
        """Bytes it has written so far, to its file and (little) elsewhere, if the kernel tells."""
        return bytes_written(self._process.pid)

    def kill(self) -> None:
        """End it, if it has not ended by itself; what it wrote stays."""
        self._process.kill()
        self._process.wait()

    def said(self) -> dict[str, Any]:
        """Its account of what went wrong, empty where it had none to give."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            text = output.read().decode(errors="replace").strip()
        return dict(json.loads(text.splitlines()[-1])) if text.endswith("}") else {}


def _environment(proxy: str | None) -> dict[str, str]:
    """The declared proxy and no other; hf_transfer takes it from the environment alone."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    # One thread takes in more than one core hashes (1.7 GiB/s, measured); each more costs CPU time and gains nothing.
    kept["TOKIO_WORKER_THREADS"] = "1"
    # Buffers of a chunk's size come and go all the time. Given back to the system, each costs its page faults again
    # (three quarters of the CPU time of a whole download); in several arenas, they leave holes that grow.
    kept.update(MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_=str(32 * _MIB), MALLOC_TRIM_THRESHOLD_=str(256 * _MIB))
    names = ("http_proxy", "https_proxy", "HTTPS_PROXY") if proxy else ()
    return {**kept, **{name: proxy for name in names if proxy}}


@contextmanager
def shared_rate(bytes_per_s: float | None) -> Iterator[int | None]:
    """A pipe that every mover reads one byte from before it reads 64 KiB from the network; None without a limit.

    :param bytes_per_s: of all of them together
    """
    if not bytes_per_s:
        yield None
        return
    reading, writing = os.pipe()
    ended = threading.Event()

    def feed() -> None:
        due = 0.0
        while not ended.wait(_TICK_S):
            due = min(due + bytes_per_s * _TICK_S / _TOKEN_BYTES, max(1.0, bytes_per_s / _TOKEN_BYTES))
            # What nobody took is not saved up: after a pause the line is not flooded.
            unread = struct.unpack("i", fcntl.ioctl(reading, termios.FIONREAD, b"\0" * 4))[0]
            if due >= 1 and unread < max(1.0, bytes_per_s / _TOKEN_BYTES / 4):
                os.write(writing, b"." * int(due))
                due -= int(due)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        yield reading
    finally:
        ended.set()
        feeder.join()
        os.close(reading)
        os.close(writing)
