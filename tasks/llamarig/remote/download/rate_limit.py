"""A rate limit that all connections of a job share."""

from __future__ import annotations

import threading
import time


class RateLimit:
    """Delay each reader until the average rate of all of them is at most ``bytes_per_s``."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait(self, received: int) -> None:
        """Sleep until ``received`` more bytes are within the limit. Time without downloads earns no burst."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + received / self._bytes_per_s
            delay_s = self._free_at - now
        time.sleep(delay_s)
