"""sha256 of a file while it is still on its way: what is there from its front on is hashed as the rest arrives.

Reading a large file once more after its arrival takes as long as its disk needs; while it arrives, its front is still
in memory. Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tasks.files.sparse_file import end_of_data

_BLOCK = 8 * 1024**2
_SETTLED_S = 0.05
CHUNKS = 4
"""Files of fewer chunks are hashed in the end: that more than asked for was written shows only beside many."""
_TALK = 16 * 1024
"""Bytes a mover writes to its sockets and its own threads for each chunk, at most; they count as written too."""


class GrowingDigest:
    """Follows the front of a file that others write.

    What was hashed must not be written again. So the front is followed ``lag`` bytes behind (a chunk that failed is
    fetched again), only as far as it was there a moment ago (a filesystem may show an extent before its bytes), and the
    result counts only if ``vouched``: every byte was written once.

    :param lag: bytes of one chunk
    """

    def __init__(self, path: Path, lag: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._buffer = memoryview(bytearray(_BLOCK))
        self._hasher = hashlib.sha256()
        self._lag = lag
        self._at = self._settled = 0
        self.vouched = False
        self._ended = threading.Event()
        self._looker = threading.Thread(target=self._look, daemon=True)
        self._looker.start()

    def follow(self, within_s: float) -> bool:
        """Hash on for so many seconds at most; whether there is more to do at once."""
        until, began = self._settled - self._lag, time.monotonic()
        while self._at < until and time.monotonic() - began < within_s:
            self._read(min(_BLOCK, until - self._at))
        return self._at < until

    def _look(self) -> None:
        """See how far the front is. A thread of its own: each look waits for whoever writes to the file just then."""
        seen, pause = 0, _SETTLED_S
        while not self._ended.wait(pause):
            began = time.monotonic()
            try:
                self._settled, seen = seen, end_of_data(self._file.fileno(), seen)
            except OSError:
                return  # then all of it is read in the end
            pause = max(_SETTLED_S, time.monotonic() - began)

    def finish(self, told: Callable[[int], None] = lambda done: None) -> str:
        """Hash the rest; ``told`` hears how many bytes have been read."""
        with self._file:
            self._stop_looking()
            while self._read(_BLOCK):
                told(self._at)
        return self._hasher.hexdigest()

    def close(self) -> None:
        """Give up."""
        self._stop_looking()
        self._file.close()

    def _stop_looking(self) -> None:
        self._ended.set()
        self._looker.join()

    def _read(self, size: int) -> int:
        count = os.preadv(self._file.fileno(), [self._buffer[:size]], self._at)
        self._hasher.update(self._buffer[:count])
        self._at += count
        return count


def wrote_once(written: int, wanted: int, chunk: int) -> bool:
    """Whether a mover wrote no byte of the file twice.

    A server that ignores Range sends the whole file for a chunk. Behind the first chunk that ends beyond the file, and
    the mover with it (move_bytes.py); for the first one it is many chunks too much.

    :param written: bytes the mover's process wrote, to the file and elsewhere, as the kernel counted them
    :param wanted: bytes the mover was to write
    :param chunk: bytes it asked for at once
    """
    return written <= wanted + (wanted // chunk + 4) * _TALK
