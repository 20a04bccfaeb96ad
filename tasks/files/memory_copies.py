"""How fast this box copies memory: as many copies at once as there are CPUs, for two seconds.

Prints ``bytes N seconds S``: each byte copied is one read and one written. Beside a loaded model memory is short, so
all copies together hold no more than a share of what is free; and nothing is printed where that is too little to be
read from memory rather than from a cache.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path

_MIB = 1024**2
MOST = 2048 * _MIB
"""Of all copies together."""
LEAST = 256 * _MIB
"""The largest cache of a desktop's processor has 128 MiB (Ryzen 9 7950X3D, 9950X3D)."""
_SHARE = 10
"""One part in so many of what is available."""
_BLOCK = 64 * _MIB
_LEAST_BLOCK = 4 * _MIB


def sizes(cpus: int, available: int) -> tuple[int, int]:
    """How many copies at once, and the bytes of each one's two blocks; (0, 0) where memory is too short for it.

    :param available: bytes, MemAvailable of /proc/meminfo
    """
    held = min(MOST, available // _SHARE)
    if held < LEAST:
        return 0, 0
    copies = max(1, min(cpus, held // (2 * _LEAST_BLOCK)))
    return copies, min(_BLOCK, held // (2 * copies))


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


def copied(copies: int, block: int, seconds: float) -> tuple[int, float]:
    """Bytes read and written, and the seconds that took. ctypes lets other threads run during a copy."""
    done, ready = [0] * copies, threading.Barrier(copies + 1)

    def copy(index: int) -> None:
        source, target = ctypes.create_string_buffer(block), ctypes.create_string_buffer(block)
        ctypes.memset(source, 1, block)
        ctypes.memmove(target, source, block)
        ready.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ctypes.memmove(target, source, block)
            done[index] += 2 * block

    threads = [threading.Thread(target=copy, args=(index,)) for index in range(copies)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.monotonic()
    for thread in threads:
        thread.join()
    return sum(done), time.monotonic() - start


def main() -> None:
    """What this box has, measured."""
    copies, block = sizes(len(os.sched_getaffinity(0)), _available())
    if copies:
        moved, took = copied(copies, block, 2)
        print("bytes", moved, "seconds", took)


if __name__ == "__main__":
    main()
