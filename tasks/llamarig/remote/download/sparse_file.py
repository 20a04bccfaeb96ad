"""Which parts of a partial file are there: the data extents that the filesystem keeps of a sparse file."""

from __future__ import annotations

import errno
import os

GRAIN = 1024**2
"""Only whole, aligned blocks of this many bytes count as there: filesystems track extents in blocks of 4 KiB to 1 MiB,
so the ends of an extent may be zeros that were never written."""


def extents(descriptor: int, size: int) -> list[tuple[int, int]]:
    """``(start, end)`` of every extent below ``size``, in bytes, trimmed to whole GRAINs."""
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
    """End of the extent that contains ``at``, in bytes, trimmed to whole GRAINs; ``at`` itself if it is in a hole."""
    try:
        return max(at, os.lseek(descriptor, at, os.SEEK_HOLE) // GRAIN * GRAIN)
    except OSError as error:
        if error.errno == errno.ENXIO:  # at the end of the file
            return at
        raise


def gaps(descriptor: int, size: int) -> list[tuple[int, int]]:
    """``(start, end)`` of every part below ``size`` that is missing, in bytes."""
    missing: list[tuple[int, int]] = []
    at = 0
    for start, end in extents(descriptor, size):
        if at < start:
            missing.append((at, start))
        at = end
    if at < size:
        missing.append((at, size))
    return missing


def length(ranges: list[tuple[int, int]]) -> int:
    """Total bytes of the ranges."""
    return sum(end - start for start, end in ranges)
