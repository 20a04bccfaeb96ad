"""A server of one file whose responses are written by the test, for faults that the stand-in Hub does not have."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.box.fetch_run import MIB, FetchRun, random_file
from tests.box.hub import Hub


class Answer(BaseHTTPRequestHandler):
    """One request, passed to the test's function, with methods to answer it."""

    protocol_version = "HTTP/1.1"

    def say(self, status: int, **headers: str | int) -> None:
        """Status and headers, `_` for `-`, without a body unless Content_Length promises one."""
        self.send_response(status)
        for name, value in ({"Content_Length": 0} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def span(self) -> tuple[int, int]:
        """First byte of the requested range, and the byte after its last."""
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1

    def give(self, content: bytes) -> None:
        """Answer with the requested range."""
        start, end = self.span()
        body = content[start:end]
        self.say(206, Content_Length=len(body), Content_Range=f"bytes {start}-{start + len(body) - 1}/{len(content)}")
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def serving(answer: Callable[[Answer], None]) -> Iterator[str]:
    """Run a server that passes every request to ``answer``; yield its address."""

    class Handler(Answer):
        def do_GET(self) -> None:
            try:
                answer(self)
            except ConnectionError:
                self.close_connection = True

        def do_HEAD(self) -> None:
            self.do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        http.block_on_close = False
        thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}"
        finally:
            http.shutdown()
            thread.join()


def fetching_from(endpoint: str, directory: Path, source: Path | None = None, **job: Any) -> FetchRun:
    """The job of one file at this endpoint; by default 3 MiB and a bit of random bytes."""
    source = source or random_file(directory / "source", 3 * MIB + 77, seed=3)
    # Only makes the job; it is never started.
    hub = Hub(directory / "root")
    return FetchRun(hub, directory / "box", "acme/one-GGUF", {"m.gguf": source}, {"endpoint": endpoint, **job})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
