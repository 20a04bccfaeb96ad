"""Measures memory bandwidth: one thread per CPU copies blocks of memory for two seconds.

Prints ``bytes N seconds S``, where N counts each copied byte as one read and one write. The blocks use only a part of
the available memory, which may be short beside a loaded model; where that part would fit into a CPU cache, nothing is
measured or printed.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path

_MIB = 1024**2
MOST = 2048 * _MIB
"""Bytes of all blocks together, at most."""
LEAST = 256 * _MIB
"""Bytes of all blocks together, at least: the largest cache of a desktop CPU has 128 MiB (Ryzen 9 7950X3D, 9950X3D)."""
_PART_OF_AVAILABLE = 10
"""The blocks use one tenth of the available memory."""
_BLOCK = 64 * _MIB
_LEAST_BLOCK = 4 * _MIB


def sizes(cpus: int, available: int) -> tuple[int, int]:
    """Return the number of threads and the size in bytes of each of a thread's two blocks.

    (0, 0) where too little memory is available.

    :param available: bytes, MemAvailable of /proc/meminfo
    """
    held = min(MOST, available // _PART_OF_AVAILABLE)
    if held < LEAST:
        return 0, 0
    copies = max(1, min(cpus, held // (2 * _LEAST_BLOCK)))
    return copies, min(_BLOCK, held // (2 * copies))


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


def measure(copies: int, block: int, seconds: float) -> tuple[int, float]:
    """Copy in parallel; return the bytes read and written, and the seconds taken.

    Threads suffice: ctypes releases the GIL during a copy.
    """
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
    """Measure and print."""
    copies, block = sizes(len(os.sched_getaffinity(0)), _available())
    if copies:
        moved, took = measure(copies, block, 2)
        print("bytes", moved, "seconds", took)


if __name__ == "__main__":
    main()
