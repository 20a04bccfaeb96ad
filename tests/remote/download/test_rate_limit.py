"""The rate limit holds for all threads together, and time without downloads earns no burst."""

from __future__ import annotations

import threading
import time

from llamarig.remote.download.range_download import RateLimit


def test_threads_share_the_rate() -> None:
    limit = RateLimit(1000)
    began = time.monotonic()
    threads = [threading.Thread(target=limit.wait, args=(50,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 0.6


def test_a_pause_earns_no_burst() -> None:
    limit = RateLimit(1000)
    limit.wait(1)
    time.sleep(0.3)
    began = time.monotonic()
    limit.wait(200)
    assert time.monotonic() - began >= 0.2
