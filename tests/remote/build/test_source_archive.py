"""Downloads of source archives from a server of this machine that is slow, ends early or does not speak HTTP."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from llamarig.remote.build import source_archive
from llamarig.remote.build.source_archive import download
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.jobs import Source

ARCHIVE = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()


@contextmanager
def server(
    length: str = str(len(ARCHIVE)), content: bytes = ARCHIVE, pause_s: float = 0.0
) -> Iterator[tuple[str, list[str]]]:
    """A server of one archive: its URL, and the paths that were requested."""
    requested: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            if not length:
                self.wfile.write(b"not HTTP\x1b[2J\r\n\r\n")
                return
            self.send_response(200)
            self.send_header("Content-Length", length)
            self.end_headers()
            for start in range(0, len(content), 1 << 17):
                self.wfile.write(content[start : start + (1 << 17)])
                time.sleep(pause_s)

        def log_message(self, format: str, *args: object) -> None: ...

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}/llama_cpp.tar.gz", requested
    finally:
        httpd.shutdown()
        httpd.server_close()


def source(url: str, sha256: str = SHA256) -> Source:
    return Source("sdist", url, "a" * 40, sha256, "")


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "sources").iterdir())


def test_two_builds_of_one_archive_download_it_once(tmp_path: Path) -> None:
    with server(pause_s=0.05) as (url, requested), ThreadPoolExecutor() as pool:
        each = [pool.submit(download, source(url), tmp_path, Progress(tmp_path)) for _ in range(3)]
        assert {one.result().read_bytes() for one in each} == {ARCHIVE}
    assert len(requested) == 1
    assert left(tmp_path) == [SHA256]


def test_what_a_killed_build_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / f"sources/{SHA256}.part").write_bytes(b"x" * (len(ARCHIVE) + 1))
    with server() as (url, _):
        assert download(source(url), tmp_path, Progress(tmp_path)).read_bytes() == ARCHIVE
    assert left(tmp_path) == [SHA256]


@pytest.mark.parametrize(
    ("length", "content", "message"),
    [
        ("", b"", "could not be downloaded"),
        ("abc", ARCHIVE[:10], "has sha256"),
        ("5000", ARCHIVE[:10], "ended after 10 of 5000 bytes"),
        (str(1 << 40), ARCHIVE, "is larger than 1024 MiB"),
        ("10", ARCHIVE[:10], "has sha256"),
    ],
)
def test_a_server_that_misbehaves_is_one_message(tmp_path: Path, length: str, content: bytes, message: str) -> None:
    with server(length, content) as (url, _):
        with pytest.raises(JobFailedError, match=message) as failed:
            download(source(url), tmp_path, Progress(tmp_path))
        assert url in str(failed.value)
    assert left(tmp_path) == []


def test_a_server_that_never_finishes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_archive, "DEADLINE_S", 0.2)
    with server(pause_s=0.1) as (url, _), pytest.raises(JobFailedError, match=r"0 MiB came in 0\.2 s"):
        download(source(url), tmp_path, Progress(tmp_path))
    assert left(tmp_path) == []


def test_nothing_listens(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match=r"Connection refused.*check this box's network"):
        download(source("http://127.0.0.1:1/x"), tmp_path, Progress(tmp_path))
