"""Downloads the missing parts of one file with HTTP Range requests, over several connections.

hf_transfer cannot resume a file, limit its rate, or keep a token from another port of the same host.
"""

from __future__ import annotations

import http.client
import os
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from llamarig.remote.download.hub_client import TokenForOneOrigin, is_outage, retry_after
from llamarig.remote.download.sparse_file import GRAIN
from llamarig.remote.download.transfer import (
    CancelledError,
    RangeIgnoredError,
    RetryableError,
    Transfer,
    without_signature,
)
from llamarig.remote.shared.job_status import JobFailedError


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


_READ = 64 * 1024
FAILURES_IN_A_ROW = 4
"""Of one connection, before the whole attempt fails."""
_LARGEST_REQUEST = 64 * 1024**2
_MIN_BYTES_PER_S = 1024
"""Of all connections together: less is not a slow line but a server that has stopped answering."""
_MIN_SHARE = 0.1
"""Of the attempt's average rate: less, and the connections that are left are slow ones."""


class RangeDownload:
    """One attempt to download the missing parts of a file.

    A request is for half of a connection's share of what is left, so requests get smaller towards the end and all
    connections end at about the same time (guided self-scheduling).

    :param missing: ``(start, end)`` of every part to fetch; aligned to GRAIN, but for the end of the file
    :param whole: fetch the file with one request, for a server without Range support
    """

    def __init__(
        self, transfer: Transfer, missing: Iterable[tuple[int, int]], limit: RateLimit | None = None, *, whole: bool
    ) -> None:
        self._transfer, self._limit, self._whole = transfer, limit, whole
        self._connections = 1 if whole else transfer.connections
        proxies = {"http": transfer.proxy, "https": transfer.proxy} if transfer.proxy else {}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), TokenForOneOrigin)
        self._waiting = deque(missing)
        self._lock = threading.Lock()
        self._received = self._written = 0
        self._ended = False
        self._failure: Exception | None = None
        self._last_error = ""

    def run(self, cancelled: threading.Event, progress: Callable[[int], None]) -> None:
        """Download each missing byte once. Nothing is written after the return.

        :param progress: called a few times a second with the number of bytes written
        :raises RetryableError: when the attempt failed; what came is in the file
        :raises JobFailedError: when the file cannot be written
        :raises CancelledError: when ``cancelled`` is set
        """
        with Path(self._transfer.part).open("r+b", buffering=0) as file:
            threads = [
                threading.Thread(target=self._work, args=(file.fileno(),), daemon=True)
                for _ in range(self._connections)
            ]
            try:
                for thread in threads:
                    thread.start()
                self._watch(threads, cancelled, progress)
            finally:
                # Threads that wait for data end when some comes, or after ``patience_s``.
                with self._lock:
                    self._ended = True

    def _watch(
        self, threads: list[threading.Thread], cancelled: threading.Event, progress: Callable[[int], None]
    ) -> None:
        patience_s = self._transfer.patience_s
        began = since = time.monotonic()
        before = 0
        for thread in threads:
            while thread.is_alive() and self._failure is None:
                thread.join(0.2)
                progress(self._written)
                if cancelled.is_set():
                    raise CancelledError
                now = time.monotonic()
                if now - since >= patience_s:
                    received, average = self._received - before, self._received / (now - began)
                    if received < patience_s * max(_MIN_BYTES_PER_S, _MIN_SHARE * average):
                        raise RetryableError(
                            f"only {received} bytes came in {patience_s} s{self._last_error}", outage=True
                        )
                    before, since = self._received, now
        if self._failure is not None:
            raise self._failure

    def _work(self, descriptor: int) -> None:
        try:
            while (part := self._next_part()) is not None:
                self._fetch(descriptor, *part)
        except (RetryableError, JobFailedError) as error:
            self._failure = self._failure or error
        except Exception as error:  # whatever ended this thread: without its bytes, the file is not complete
            self._failure = self._failure or RetryableError(without_signature(f"{type(error).__name__}: {error}"))

    def _next_part(self) -> tuple[int, int] | None:
        """``(start, end)`` of the next request; None when there is no more to fetch."""
        with self._lock:
            if self._ended or not self._waiting:
                return None
            left = sum(end - start for start, end in self._waiting)
            share = min(_LARGEST_REQUEST, max(self._transfer.chunk, left // (2 * self._connections)))
            start, end = self._waiting.popleft()
            middle = end if self._whole else start + max(GRAIN, share // GRAIN * GRAIN)
            if middle < end:
                self._waiting.appendleft((middle, end))
            return start, min(middle, end)

    def _fetch(self, descriptor: int, start: int, end: int) -> None:
        """Fetch a part, in as many requests as it takes. Writes whole GRAINs.

        :raises RetryableError: when another request would not help, or has failed often enough
        """
        failures = 0
        while start < end and not self._ended:
            try:
                for block in self._request(start, end):
                    if not self._write(descriptor, block, start):
                        return
                    start += len(block)
                    failures = 0
            except (OSError, http.client.HTTPException, ValueError) as error:
                failures += 1
                self._raise_if_final(error, failures)
                time.sleep(min(4.0, 0.25 * 2**failures))

    def _request(self, start: int, end: int) -> Iterator[bytearray]:
        """Yield the bytes in blocks of GRAIN."""
        headers = {**self._transfer.headers, "Range": f"bytes={start}-{end - 1}"}
        request = urllib.request.Request(self._transfer.url, headers=headers)
        with self._opener.open(request, timeout=self._transfer.patience_s) as response:
            self._check_range(response, start, end)
            while start < end:
                block, size = bytearray(), min(GRAIN, end - start)
                while len(block) < size:
                    data = response.read1(min(_READ, size - len(block)))
                    if self._ended:
                        return
                    if not data:
                        raise ConnectionError(f"the answer ended {end - start - len(block)} bytes early")
                    block += data
                    self._received += len(data)
                    if self._limit is not None:
                        self._limit.wait(len(data))
                yield block
                start += len(block)

    def _write(self, descriptor: int, block: bytearray, at: int) -> bool:
        """Write a block, or return False if the attempt has ended: the next one may be writing here.

        Under the lock; the filesystem lets in only one writer anyway.
        """
        with self._lock:
            if self._ended:
                return False
            rest = memoryview(block)
            try:
                while rest:
                    count = os.pwrite(descriptor, rest, at)
                    rest, at = rest[count:], at + count
            except OSError as error:
                directory = Path(self._transfer.part).parent
                raise JobFailedError(f"{error.strerror} on {directory}: nothing that came is lost") from None
            self._written += len(block)
            return True

    def _check_range(self, response: Any, start: int, end: int) -> None:
        size = self._transfer.size
        sent = response.headers.get("Content-Range", "")
        length = response.headers.get("Content-Length")
        if response.status == 206:
            if sent != f"bytes {start}-{end - 1}/{size}":
                raise RangeIgnoredError(f"asked for bytes {start}-{end - 1} of {size}, the server sent '{sent}'")
        elif not (self._whole and start == 0 and length == str(size)):
            raise RangeIgnoredError(f"the server ignores Range requests (HTTP {response.status})")

    def _raise_if_final(self, error: Exception, failures: int) -> None:
        if isinstance(error, urllib.error.HTTPError):
            after_s = retry_after(error.headers)
            message = f"the server answered HTTP {error.code}"
            if error.code < 400:
                message = "the server redirects the request in circles"
            if error.code < 500 or after_s is not None or failures >= FAILURES_IN_A_ROW:
                raise RetryableError(message, after_s, outage=is_outage(error.code))
        else:
            message = without_signature(str(getattr(error, "reason", error) or repr(error)))
            if failures >= FAILURES_IN_A_ROW:
                raise RetryableError(f"the connection broke {failures} times: {message}", outage=True)
        self._last_error = f": {message}"
