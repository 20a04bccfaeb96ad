"""What of a half-fetched file is really there: the data extents that the filesystem itself keeps of a sparse file.

Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

import errno
import os

GRAIN = 1024**2
"""Only whole, aligned pieces of this many bytes count as there. Filesystems keep track in blocks (4 KiB to 1 MiB), so
the ends of an extent may be zeros that nobody wrote."""


def extents(descriptor: int, size: int) -> list[tuple[int, int]]:
    """``(start, end)`` of every stretch below ``size`` that holds data, in bytes, trimmed to whole GRAINs."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                break
            raise
        at = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        start = -(-start // GRAIN) * GRAIN
        end = at if at == size else at // GRAIN * GRAIN
        if start < end:
            found.append((start, end))
    return found


def end_of_data(descriptor: int, at: int) -> int:
    """Where the data that ``at`` lies in comes to its end, in whole GRAINs; ``at`` itself in a hole, or nearly."""
    try:
        return max(at, os.lseek(descriptor, at, os.SEEK_HOLE) // GRAIN * GRAIN)
    except OSError as error:
        if error.errno == errno.ENXIO:  # at the end of the file
            return at
        raise


def gaps(descriptor: int, size: int) -> list[tuple[int, int]]:
    """``(start, end)`` of every stretch below ``size`` that has still to be fetched, in bytes."""
    missing: list[tuple[int, int]] = []
    at = 0
    for start, end in extents(descriptor, size):
        if at < start:
            missing.append((at, start))
        at = end
    if at < size:
        missing.append((at, size))
    return missing


def length(stretches: list[tuple[int, int]]) -> int:
    """Bytes in all of them together."""
    return sum(end - start for start, end in stretches)
