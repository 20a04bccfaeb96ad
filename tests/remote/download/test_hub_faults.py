"""Downloads from a faulty Hub end with the right bytes or one clear error, and keep the downloaded bytes.

The program runs as a process, as on the box; tests/box/test_model_store.py runs it through systemd.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import pytest

from tests.box.fetch_run import MIB, PATIENCE_S, FetchRun, random_file
from tests.box.hub import Hub
from tests.box.hub_faults import Fault

REPO = "acme/faulty-GGUF"
TOKEN = "hf_fortests"
SIZES = (12 * MIB + 345, 7 * MIB + 1)

Start = Callable[..., FetchRun]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("sources")
    return {
        f"Q6/m-{number:05}-of-00002.gguf": random_file(directory / f"{number}", size, seed=number)
        for number, size in enumerate(SIZES, 1)
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Hub(tmp_path_factory.mktemp("root")) as hub:
        yield hub


@pytest.fixture
def fetching(served: Hub, sources: dict[str, Path], tmp_path: Path) -> Iterator[FetchRun]:
    served.log.clear()
    yield FetchRun(served, tmp_path, REPO, sources)
    served.faults.clear()


def refetched(fetching: FetchRun, what: str) -> float:
    """MiB that were fetched more than once; printed, too."""
    twice = (fetching.bytes_sent() - fetching.size) / MIB
    print(f"{what}: {twice:.2f} of {fetching.size / MIB:.2f} MiB fetched twice")
    return twice


# Faults, and how many MiB at most may be fetched twice because of them. A connection loses what it had of its chunk
# (1 MiB here, 4 in production); a 200 for a Range request brings more than was requested.
TEMPORARY = {
    "reset": ([Fault(origin="cdn", reset_after_bytes=500_000, times=6)], 6),
    "truncated": ([Fault(origin="cdn", truncate_after_bytes=500_000, times=6)], 6),
    "429-from-the-cdn": ([Fault(origin="cdn", status=429, retry_after=1, times=9)], 9),
    "429-from-the-hub": ([Fault(origin="hub", status=429, retry_after=1, times=4)], 1),
    "500-burst": ([Fault(origin="cdn", status=500, times=40)], 9),
    "503-from-the-hub": ([Fault(origin="hub", status=503, times=5)], 1),
    "200-for-some-ranges": ([Fault(origin="cdn", ignore_range=True, times=3)], 80),
    # The server sends whole files until each of hf_transfer's connections is closed: how much, depends on the load.
    "200-for-every-range": ([Fault(origin="cdn", ignore_range=True)], 400),
    "wrong-bytes-once": ([Fault(origin="cdn", path="*00001-of*", corrupt=True, times=1)], 13),
    "signed-url-expires": (
        [Fault(origin="hub", expire_after_s=0.6, times=4), Fault(origin="cdn", bytes_per_s=400_000, times=30)],
        12,
    ),
    "slow-loris": ([Fault(origin="cdn", bytes_per_s=100, times=8)], 9),
    # hf_transfer gives up at the first loop, and with it go the chunks that its eight connections had in flight.
    "redirects-for-a-while": ([Fault(origin="cdn", redirect_loop=True, times=40)], 8),
    "all-at-once": (
        [
            Fault(origin="cdn", reset_after_bytes=300_000, times=5),
            Fault(origin="cdn", status=500, times=5),
            Fault(origin="hub", status=429, retry_after=1, times=2),
            Fault(origin="cdn", corrupt=True, times=1),
        ],
        30,
    ),
}


@pytest.mark.parametrize("name", TEMPORARY)
def test_a_temporary_fault_ends_with_the_right_bytes(name: str, fetching: FetchRun) -> None:
    faults, bound = TEMPORARY[name]
    fetching.hub.faults.add(*faults)
    if name == "slow-loris":
        fetching.job["patience_s"] = 2
    ended = fetching.run()
    assert ended.code == 0, ended.log
    assert ended.status["state"] == "done"
    fetching.assert_complete()
    assert refetched(fetching, name) <= bound
    assert "Signature=" not in ended.log, "a signed URL in the log"


# Faults, and a part of the message.
PERMANENT = {
    "wrong-bytes-always": ([Fault(origin="cdn", corrupt=True)], "arrived with sha256"),
    "redirect-loop-at-the-hub": ([Fault(origin="hub", redirect_loop=True)], "in circles"),
    "redirect-loop-at-the-cdn": ([Fault(origin="cdn", redirect_loop=True)], "in circles"),
    "refused-by-the-cdn": ([Fault(origin="cdn", status=403)], "answered HTTP 403"),
    "500-always": ([Fault(origin="cdn", status=500)], "answered HTTP 500"),
    "nothing-comes": ([Fault(origin="cdn", bytes_per_s=1)], "bytes came in"),
    "cut-off-always": ([Fault(origin="cdn", truncate_after_bytes=10)], "early"),
    "file-gone": ([Fault(origin="hub", method="HEAD", status=404, error_code="EntryNotFound")], "any more"),
    "asked-to-wait-a-day": ([Fault(origin="hub", method="HEAD", status=429, retry_after=86400)], "HTTP 429"),
}


@pytest.mark.parametrize("name", PERMANENT)
def test_a_permanent_fault_ends_with_one_clear_error(name: str, fetching: FetchRun) -> None:
    faults, words = PERMANENT[name]
    fetching.hub.faults.add(*faults)
    fetching.job |= {"patience_s": 1, "give_up_after_s": 4}
    ended = fetching.run()
    assert ended.code == 1
    assert ended.status["state"] == "failed"
    assert words in ended.message
    assert "Traceback" not in ended.log
    assert "\n" not in ended.message
    fetching.assert_no_wrong_bytes()
    fetching.hub.faults.clear()
    assert fetching.run().code == 0
    fetching.assert_complete()


def test_an_endpoint_that_refuses_connections_is_named_in_the_error(fetching: FetchRun) -> None:
    fetching.job |= {"endpoint": "http://127.0.0.1:9", "give_up_after_s": 2}
    ended = fetching.run()
    assert ended.code == 1
    assert "http://127.0.0.1:9 cannot be reached from this box (Connection refused)" in ended.message


def test_a_killed_download_is_resumed(fetching: FetchRun) -> None:
    fetching.hub.faults.add(Fault(origin="cdn", bytes_per_s=1_500_000))
    running = fetching.start()
    wait_until(lambda: fetching.bytes_sent() > 12 * MIB, running)
    fetching.kill(running)
    moved = fetching.bytes_sent()
    fetching.assert_no_wrong_bytes()
    fetching.hub.faults.clear()
    ended = fetching.run()
    assert ended.code == 0, ended.log
    assert "are there already" in ended.log
    fetching.assert_complete()
    # Eight connections, each with a chunk of 1 MiB in flight.
    assert refetched(fetching, f"killed after {moved / MIB:.1f} MiB") <= 8 + 1


def test_the_failure_of_one_file_keeps_what_came_of_the_others(fetching: FetchRun) -> None:
    fetching.hub.faults.add(
        Fault(origin="cdn", bytes_per_s=600_000), Fault(origin="cdn", path="*00002-of*", status=410)
    )
    fetching.job["backoff_s"] = 0.2
    ended = fetching.run()
    assert ended.code == 1
    assert "answered HTTP 410" in ended.message
    fetching.hub.faults.clear()
    assert fetching.run().code == 0
    fetching.assert_complete()
    assert refetched(fetching, "other file failed") <= 5


def test_children_end_with_the_program_and_the_store_is_locked_until_then(fetching: FetchRun) -> None:
    fetching.hub.faults.add(Fault(origin="cdn", bytes_per_s=3_000))
    first = fetching.start()
    wait_until(lambda: fetching.bytes_sent() > 50_000, first)
    store = Path(fetching.job["files"][0]["partial"]).parent
    second = FetchRun(
        fetching.hub, fetching.directory / "second", REPO, fetching.sources, {"files": fetching.job["files"]}
    )
    refused = second.run()
    assert refused.code == 1
    assert "another download is at work" in refused.message
    fetching.kill(first)
    # hf_transfer's processes hold the lock until they end; on their own they would go on for a quarter of an hour.
    with (store / ".lock").open("r+") as lock:
        wait_until(lambda: is_free(lock))
    fetching.hub.faults.clear()
    assert second.run().code == 0
    fetching.assert_complete()


def test_sigterm_stops_a_download(fetching: FetchRun) -> None:
    fetching.hub.faults.add(Fault(origin="cdn", bytes_per_s=3_000))
    running = fetching.start()
    wait_until(lambda: fetching.bytes_sent() > 50_000, running)
    running.terminate()
    ended = fetching.end(running)
    assert ended.status["state"] == "stopped"
    assert fetching.bytes_sent() < fetching.size


def test_rate_limit_holds_for_all_files_together(fetching: FetchRun) -> None:
    fetching.job["bytes_per_s"] = 5_000_000
    began = time.monotonic()
    assert fetching.run().code == 0
    seconds = time.monotonic() - began
    fetching.assert_complete()
    wanted = fetching.size / 5e6
    print(f"{fetching.size / seconds / 1e6:.2f} MB/s with a limit of 5")
    # No upper bound: a loaded machine is slow by itself.
    assert seconds >= 0.75 * wanted


def test_verified_files_need_no_request(fetching: FetchRun) -> None:
    assert fetching.run().code == 0
    fetching.hub.log.clear()
    assert fetching.run().code == 0
    assert fetching.hub.log.requests() == []


def test_a_file_with_a_stale_record_is_hashed_and_not_fetched(fetching: FetchRun) -> None:
    assert fetching.run().code == 0
    for file in fetching.job["files"]:
        os.utime(file["target"])
    fetching.hub.log.clear()
    assert fetching.run().code == 0
    assert fetching.hub.log.requests() == []
    fetching.assert_complete()


def test_a_damaged_file_is_fetched_again(fetching: FetchRun) -> None:
    assert fetching.run().code == 0
    target = Path(fetching.job["files"][0]["target"])
    with target.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"rot")
    fetching.hub.log.clear()
    ended = fetching.run()
    assert ended.code == 0
    assert "is not the locked file" in ended.log
    fetching.assert_complete()
    assert fetching.bytes_sent() - SIZES[0] <= 2  # and hf_transfer's request for the size


def test_files_are_hashed_during_the_download(fetching: FetchRun) -> None:
    """Without a failure, nothing is read a second time, and what is on the disk is right."""
    fetching.hub.faults.add(Fault(origin="cdn", bytes_per_s=800_000))
    ended = fetching.run()
    assert ended.code == 0, ended.log
    assert ended.log.count("hashed during the download") == len(SIZES)
    fetching.assert_complete()


def test_the_same_bytes_under_two_names_are_fetched_once(fetching: FetchRun) -> None:
    other = FetchRun(fetching.hub, fetching.directory / "other", "acme/copy-GGUF", fetching.sources)
    copies = [
        {**copy, "partial": file["partial"], "target": copy["target"].replace("/other/models/", "/models/")}
        for copy, file in zip(other.job["files"], fetching.job["files"], strict=True)
    ]
    both = FetchRun(
        fetching.hub, fetching.directory / "both", REPO, fetching.sources, {"files": [*fetching.job["files"], *copies]}
    )
    fetching.hub.log.clear()
    assert both.run().code == 0
    both.assert_complete()
    assert both.bytes_sent() - both.size / 2 <= 4
    assert both.run().code == 0


def test_a_gated_repository_is_refused_before_the_first_byte(
    served: Hub, sources: dict[str, Path], fetching: FetchRun, tmp_path: Path
) -> None:
    gated = [
        FetchRun(served, tmp_path / name, f"acme/{name}-GGUF", sources, gated_token=TOKEN) for name in ("one", "two")
    ]
    fetching.job["files"] += [file for other in gated for file in other.job["files"]]
    ended = fetching.run()
    assert ended.code == 1
    assert "the Hub refuses acme/one-GGUF (HTTP 401); acme/two-GGUF (HTTP 401)" in ended.message
    assert "read permission for gated repositories" in ended.message
    assert fetching.bytes_sent() == 0


def test_the_token_is_sent_to_the_hub_only(
    served: Hub, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = FetchRun(served, tmp_path, "acme/gated-GGUF", sources, gated_token=TOKEN)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "hub-token").write_text(TOKEN + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    served.log.clear()
    ended = gated.run()
    assert ended.code == 0, ended.log
    gated.assert_complete()
    assert {request.authorization for request in served.log.requests() if request.origin == "hub"} == {True}
    assert {request.authorization for request in served.log.requests() if request.origin == "cdn"} == {False}
    assert TOKEN not in ended.log
    written = [path.read_text() for path in gated.jobs.iterdir()]
    assert TOKEN not in "".join(written)


def test_the_declared_proxy_and_no_other_is_used(fetching: FetchRun, monkeypatch: pytest.MonkeyPatch) -> None:
    proxied: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        """Forwards plain HTTP; enough for the stand-in Hub."""

        def do_GET(self) -> None:
            proxied.append(self.path)
            url = urlsplit(self.path)
            assert url.hostname is not None
            upstream = http.client.HTTPConnection(url.hostname, url.port)
            kept = {name: value for name, value in self.headers.items() if name.lower() != "proxy-connection"}
            upstream.request(self.command, f"{url.path}?{url.query}", headers=kept)
            answer = upstream.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        fetching.job["proxy"] = f"http://127.0.0.1:{proxy.server_address[1]}"
        ended = fetching.run()
        proxy.shutdown()
    assert ended.code == 0, ended.log
    fetching.assert_complete()
    assert len(proxied) == len(fetching.hub.log.requests())


@pytest.mark.box
def test_a_full_disk_fails_the_download_and_keeps_its_bytes(
    served: Hub, sources: dict[str, Path], tmp_path: Path
) -> None:
    """The disk fills up during the download."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", small], check=True)
    try:
        fetching = FetchRun(served, small, REPO, sources)
        served.log.clear()
        ended = fetching.run()
        assert ended.code == 1
        assert "No space left on device" in ended.message
        assert "nothing that came is lost" in ended.message
        fetching.assert_no_wrong_bytes()
        subprocess.run(["mount", "-o", "remount,size=100m", small], check=True)
        assert fetching.run().code == 0
        fetching.assert_complete()
        # Eight chunks could not be written, then again on hf_transfer's retry, then as many Range requests' first MiB.
        assert refetched(fetching, "disk full") <= 24
    finally:
        subprocess.run(["umount", small], check=True)


def wait_until(condition: Callable[[], bool], running: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert running is None or running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
