"""Moves the bytes of one file, as a process of its own that may be killed at any moment.

hf_transfer holds Python's lock while it works, deletes its file when it fails and cannot resume, so nothing else may
share its process. What is missing of a file afterwards, or after a kill, comes by Range requests in the second half of
this program. Runs on the box in the venv of tasks/files/hub-requirements.txt. The order comes on stdin, as JSON: a
signed URL is a secret for an hour, and a command line is not.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import re
import resource
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from tasks.files.hub_client import KeepTokenHome, is_outage, retry_after
from tasks.files.pieces import Piece, Pieces
from tasks.files.sparse_file import GRAIN

READ = 64 * 1024
"""Bytes read at once, and what one token of the shared rate limit pays for."""
FAILURES_IN_A_ROW = 4
_PIECE_MIN, _PIECE_MAX = 16 * 1024**2, 256 * 1024**2
"""One Range request: large enough that opening its connection costs little, small enough to share the rest fairly."""
_REQUESTS_IN_A_PATIENCE = 6
"""What a connection would still need longer for than this part of its patience, another one takes half of."""
_CRAWL_BYTES_PER_S = 1024
"""Slower than this over all connections is not a slow line but a server that has lost interest."""
_MEMORY_BESIDE_CHUNKS = 256 * 1024**2
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Do what stdin says; anything but success is said on stdout as one JSON object."""
    order = json.loads(sys.stdin.readline())
    _stay_within(order)
    with failing_aloud():
        (_by_hf_transfer if order["way"] == "hf_transfer" else _Ranges(order).run)(order)
    os.write(1, (json.dumps({"written": bytes_written()}) + "\n").encode())


def _stay_within(order: dict[str, Any]) -> None:
    """Limits that the kernel keeps, whatever a server sends: memory, file size, and no life after the parent's."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order["parent"]:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (order["size"], order["size"]))
    # Python would make an error of it, and hf_transfer a second attempt, over what it has spoiled already.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    # A chunk is in memory once as it arrives and once as it is written.
    memory = 2 * order["connections"] * order["chunk"] + _MEMORY_BESIDE_CHUNKS
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def bytes_written(process: int | str = "self") -> int | None:
    """Bytes a process has written so far, to whatever; None where the kernel does not count them, or it has ended."""
    try:
        said = re.search(r"^wchar: (\d+)$", Path(f"/proc/{process}/io").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(said[1]) if said else None


def fail(why: str, **more: Any) -> NoReturn:
    """Say what went wrong and end at once, whatever the threads are doing. No signed URL is ever repeated."""
    text = re.sub(r"(https?://[^\s?)]+)\?[^\s)]+", r"\1", why)
    os.write(1, (json.dumps({"why": text, **more}) + "\n").encode())
    os._exit(1)


@contextmanager
def failing_aloud() -> Iterator[None]:
    """What nobody foresaw ends the whole program, in whichever thread: without that one's bytes nothing is whole."""
    try:
        yield
    except Exception as error:  # whatever it is: a thread that ended unheard would leave a hole that nobody looks for
        fail(f"{type(error).__name__}: {error}")


def hf_transfer_name(part: Path) -> Path:
    """hf_transfer's own name for a file: it deletes that one when it fails, and the data stays under the other."""
    return part.with_name(f"{part.name}.hf_transfer")


def _by_hf_transfer(order: dict[str, Any]) -> None:
    import hf_transfer

    own = hf_transfer_name(Path(order["path"]))
    os.link(order["path"], own)
    try:
        hf_transfer.download(
            url=order["url"],
            filename=str(own),
            max_files=order["connections"],
            chunk_size=order["chunk"],
            parallel_failures=min(3, order["connections"]),
            max_retries=3,
            headers=order["headers"],
        )
    except Exception as error:  # hf_transfer raises bare Exception for whatever went wrong
        fail(f"hf_transfer: {error}")
    own.unlink()


class _Ranges:
    """Some threads, each with one connection at a time, filling the gaps from the front."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.descriptor = os.open(order["path"], os.O_WRONLY)
        self.received = 0
        self.last_failure = ""
        proxies = {"http": order["proxy"], "https": order["proxy"]} if order["proxy"] else {}
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), KeepTokenHome)
        missing = sum(end - start for start, end in order["gaps"])
        piece = min(_PIECE_MAX, max(_PIECE_MIN, missing // (8 * order["connections"]))) // GRAIN * GRAIN
        if order["way"] == "stream":
            piece = order["size"] + 1
        elif piece > order["chunk"] > 0 and order["size"] < order["connections"] * piece:
            piece = max(order["chunk"] // GRAIN * GRAIN, GRAIN)  # a small file: every connection gets some of it
        self.pieces = Pieces(
            order["gaps"],
            piece,
            worth_s=order["patience_s"] / _REQUESTS_IN_A_PATIENCE,
            limited=order["tokens"] is not None,
        )

    def run(self, order: dict[str, Any]) -> None:
        threading.stack_size(512 * 1024)
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(order["connections"])]
        for thread in threads:
            thread.start()
        before, since = 0, time.monotonic()
        while any(thread.is_alive() for thread in threads):
            next(thread for thread in threads if thread.is_alive()).join(0.2)
            patience = order["patience_s"]
            if time.monotonic() - since >= patience:
                if self.received - before < _CRAWL_BYTES_PER_S * patience:
                    fail(f"only {self.received - before} bytes came in {patience} s{self.last_failure}", outage=True)
                before, since = self.received, time.monotonic()

    def _work(self) -> None:
        with failing_aloud():
            self._fill()

    def _fill(self) -> None:
        failures = 0
        while (piece := self.pieces.take()) is not None:
            try:
                for _ in self._fetch(piece):
                    failures = 0
            except (OSError, http.client.HTTPException, ValueError) as error:
                failures += 1
                self._judge(error, failures)
                self.pieces.ended(piece)
                time.sleep(min(4.0, 0.25 * 2**failures))
            else:
                self.pieces.ended(piece)

    def _judge(self, error: BaseException, failures: int) -> None:
        """End at once what a further request cannot mend, or what has failed often enough."""
        if isinstance(error, urllib.error.HTTPError):
            after = retry_after(error.headers)
            said = "the server " + (
                "sends the request round in circles" if error.code < 400 else f"answered HTTP {error.code}"
            )
            if error.code < 500 or after is not None or failures >= FAILURES_IN_A_ROW:
                fail(said, outage=is_outage(error.code), after_s=after)
        elif isinstance(error, _NoRangeError):
            fail(str(error), no_ranges=True)
        elif isinstance(error, _DiskError):
            fail(error.strerror or str(error), errno=error.errno)
        else:
            said = str(getattr(error, "reason", error) or repr(error))
            if failures >= FAILURES_IN_A_ROW:
                fail(f"the connection broke {failures} times: {said}", outage=True)
        self.last_failure = f": {said}"

    def _fetch(self, piece: Piece) -> Iterator[None]:
        """Yield after each write. Only whole GRAINs are written, but for the file's end."""
        start, end = piece.start, piece.end
        headers = {**self.order["headers"], "Range": f"bytes={start}-{end - 1}"}
        request = urllib.request.Request(self.order["url"], headers=headers)
        with self.opener.open(request, timeout=self.order["patience_s"]) as answer:
            _check_range(answer, start, end, self.order["size"], stream=self.order["way"] == "stream")
            buffer = memoryview(bytearray(GRAIN))
            while wanted := self.pieces.claim(piece, GRAIN):
                filled = 0
                while filled < wanted:
                    if self.order["tokens"] is not None:
                        os.read(self.order["tokens"], 1)
                    count = answer.readinto(buffer[filled : min(wanted, filled + READ)])
                    if not count:
                        raise ConnectionError(f"the answer ended {end - piece.at - filled} bytes early")
                    filled += count
                    self.received += count
                self._write(buffer[:wanted], piece.at)
                self.pieces.wrote(piece)
                yield

    def _write(self, data: memoryview, at: int) -> None:
        try:
            while data:
                count = os.pwrite(self.descriptor, data, at)
                data, at = data[count:], at + count
        except OSError as error:
            raise _DiskError(error.errno, error.strerror) from None


class _DiskError(OSError):
    """Writing failed; every other OSError here is the network's."""


class _NoRangeError(ValueError):
    """The server gave something else than the range it was asked for."""


def _check_range(answer: Any, start: int, end: int, size: int, *, stream: bool) -> None:
    if answer.status == 206:
        said = answer.headers.get("Content-Range", "")
        if said != f"bytes {start}-{end - 1}/{size}":
            raise _NoRangeError(f"asked for bytes {start}-{end - 1} of {size}, the server sent '{said}'")
    elif not (stream and answer.status == 200 and answer.headers.get("Content-Length") == str(size)):
        raise _NoRangeError(f"the server ignores Range requests (HTTP {answer.status})")


if __name__ == "__main__":
    main()
