"""The sha256 of a file on its way: right whatever arrives first, and trusted only where each byte was written once."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.files.byte_mover import Mover
from tasks.files.growing_digest import GrowingDigest, wrote_once
from tests.box.fetching import REPOSITORY_ROOT

MIB = 1024**2
CONTENT = random.Random(7).randbytes(9 * MIB + 123)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def follow_to_the_end(growing: GrowingDigest) -> None:
    """Until nothing more is to be hashed before the file is whole."""
    settled = time.monotonic() + 0.7
    while growing.follow(within_s=0.01) or time.monotonic() < settled:
        time.sleep(0.01)


@pytest.mark.parametrize("seed", range(4))
def test_chunks_in_any_order(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    part = tmp_path / "part"
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT)
    growing = GrowingDigest(part, lag=MIB)
    starts = list(range(0, len(CONTENT), MIB))
    chance.shuffle(starts)
    for start in starts:
        os.pwrite(descriptor, CONTENT[start : start + MIB], start)
        growing.follow(within_s=0.05)
        time.sleep(chance.random() / 10)
    follow_to_the_end(growing)
    os.close(descriptor)
    read: list[int] = []
    assert growing.finish(read.append) == SHA256
    assert read[0] > len(CONTENT) - MIB, "more than the last chunk was left to be read"


def test_a_chunk_that_is_fetched_again_is_not_hashed_before(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(CONTENT[: 3 * MIB] + bytes(MIB))
    growing = GrowingDigest(part, lag=MIB)
    follow_to_the_end(growing)
    with part.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(CONTENT[3 * MIB :])
    follow_to_the_end(growing)
    assert growing.finish() == SHA256


@contextmanager
def server(ignores: int | None) -> Iterator[str]:
    """Serves CONTENT by ranges, but for the one that begins there, which it answers with all of it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = self.headers["Range"]
            first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            whole = last > 0 and first == ignores
            body = CONTENT if whole else CONTENT[first : last + 1]
            self.send_response(200 if whole else 206)
            self.send_header("Content-Length", str(len(body)))
            if not whole:
                self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(CONTENT)}")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}/file"
        finally:
            http.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("ignores", "ends_with", "once"),
    [
        (None, 0, True),
        (0, 0, False),
        (2 * MIB, -signal.SIGXFSZ, False),
        (9 * MIB, -signal.SIGXFSZ, False),
    ],
)
def test_hf_transfer_writing_over_its_own_bytes_is_noticed(
    ignores: int | None, ends_with: int, once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY_ROOT)
    part = tmp_path / "part"
    part.touch()
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    with server(ignores) as url:
        order: dict[str, Any] = {
            "way": "hf_transfer",
            "url": url,
            "headers": {},
            "proxy": None,
            "path": str(part),
            "size": len(CONTENT),
            "gaps": [(0, len(CONTENT))],
            "connections": 4,
            "chunk": MIB,
            "patience_s": 60,
            "tokens": None,
        }
        mover = Mover(order, lock)
        assert mover.ended(within_s=120)
    os.close(lock)
    assert mover.code == ends_with
    written = mover.said().get("written")
    assert (written is not None and wrote_once(written, len(CONTENT), MIB)) is once


def test_what_else_a_mover_writes_is_allowed_for() -> None:
    size, chunk = 64 * 1024**3, 4 * MIB
    assert wrote_once(size + 2000 * (size // chunk), size, chunk)
    assert not wrote_once(2 * size - chunk, size, chunk)
    assert not wrote_once(2 * 4 * chunk - chunk, 4 * chunk, chunk)
