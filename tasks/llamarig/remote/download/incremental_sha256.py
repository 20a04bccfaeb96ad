"""sha256 of a file while it is being downloaded.

Reading a large file once more after its download takes as long as its disk needs; during the download, the front of
the file is still in the page cache.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from llamarig.remote.download.sparse_file import end_of_data

_BLOCK = 1024**2
_LOOK_S = 0.05


class IncrementalSha256:
    """A thread that hashes the front of a file while others write the file.

    The result is right only if no hashed byte is written again. Therefore the thread stays ``lag`` bytes behind the
    end of the front (a chunk that failed is fetched again), and hashes only what the previous look found (a filesystem
    may report an extent before its bytes can be read).

    :param lag: in bytes
    """

    def __init__(self, path: Path, lag: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._buffer = memoryview(bytearray(_BLOCK))
        self._hasher = hashlib.sha256()
        self._lag = lag
        self.hashed = 0
        self._ended = threading.Event()
        # A thread of its own: SEEK_HOLE waits for whoever is writing to the file.
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        front = 0
        while not self._ended.wait(_LOOK_S):
            until = front - self._lag
            while self.hashed < until and not self._ended.is_set():
                self._hash(min(_BLOCK, until - self.hashed))
            try:
                front = end_of_data(self._file.fileno(), front)
            except OSError:
                return  # finish() hashes all of the rest

    def finish(self, progress: Callable[[int], None] = lambda hashed: None) -> str:
        """Hash the rest and return the hexadecimal sha256.

        :param progress: called with the number of bytes hashed so far
        """
        self._stop()
        while self._hash(_BLOCK):
            progress(self.hashed)
        self._file.close()
        return self._hasher.hexdigest()

    def close(self) -> None:
        """Stop; without a call of ``finish`` before, there is no result."""
        self._stop()
        self._file.close()

    def _stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _hash(self, size: int) -> int:
        count = os.preadv(self._file.fileno(), [self._buffer[:size]], self.hashed)
        self._hasher.update(self._buffer[:count])
        self.hashed += count
        return count
