"""Range requests over several connections: each byte is written once, and a slow connection holds nothing up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from llamarig.remote.download.range_download import RangeDownload, RateLimit
from llamarig.remote.download.transfer import CancelledError, RetryableError, Transfer

from tests.box.fetch_run import MIB, PATIENCE_S, random_file
from tests.remote.download.one_file_server import Answer, fetching_from, serving, sha256


def download(
    part: Path,
    url: str,
    size: int,
    *,
    missing: list[tuple[int, int]] | None = None,
    connections: int = 4,
    chunk: int = MIB,
    patience_s: float = 60,
    limit: RateLimit | None = None,
    whole: bool = False,
) -> Callable[[threading.Event], list[int]]:
    """Prepare a download; returns the function that runs it and returns its progress."""
    part.touch()
    transfer = Transfer(url, {}, None, str(part), size, connections, chunk, patience_s)
    prepared = RangeDownload(transfer, missing or [(0, size)], limit, whole=whole)

    def run(cancelled: threading.Event) -> list[int]:
        progress: list[int] = []
        prepared.run(cancelled, progress.append)
        return progress

    return run


@pytest.mark.parametrize("bytes_per_s", [None, 500_000_000], ids=["unlimited", "rate-limited"])
def test_another_connection_takes_over_the_rest_of_a_slow_one(bytes_per_s: int | None, tmp_path: Path) -> None:
    """The server sends little more on that connection until another one requests the rest."""
    source = random_file(tmp_path / "source", 8 * MIB + 5, seed=5)
    content = source.read_bytes()
    replaced = threading.Event()
    crawled: list[int] = []

    def answer(request: Answer) -> None:
        if request.command == "HEAD":
            request.say(200, ETag=f'"{sha256(content)}"', Content_Length=len(content))
            return
        start, end = request.span()
        if start >= 6 * MIB:
            replaced.set()
        if start != 5 * MIB or crawled:
            request.give(content)
            return
        crawled.append(start)
        request.say(206, Content_Length=end - start, Content_Range=f"bytes {start}-{end - 1}/{len(content)}")
        # The first MiB is written then.
        at = start + MIB
        request.wfile.write(content[start:at])
        while not replaced.wait(0.1):
            request.wfile.write(content[at : at + 1000])
            at += 1000
        request.wfile.write(content[at:end])

    with serving(answer) as endpoint:
        fetching = fetching_from(
            endpoint, tmp_path, source, bytes_per_s=bytes_per_s, connections=2, chunk=4 * MIB, patience_s=3
        )
        fetching.write_partial(0, [(0, MIB)])
        ended = fetching.run()
    assert ended.code == 0, ended.log
    fetching.assert_complete()
    assert crawled
    assert replaced.is_set()


@pytest.mark.parametrize("seed", range(5))
def test_each_byte_is_written_once(seed: int, tmp_path: Path) -> None:
    """By connections of different speed, some of which break."""
    chance = random.Random(seed)
    size = 37 * MIB + 11
    content = random_file(tmp_path / "source", size, seed=seed).read_bytes()
    missing = [(0, 3 * MIB), (5 * MIB, 6 * MIB), (20 * MIB, size)]
    requested: list[tuple[int, int]] = []
    broken: list[int] = []

    def answer(request: Answer) -> None:
        start, end = request.span()
        requested.append((start, end))
        time.sleep(chance.random() / 20)
        # Four in a row on one connection would end the attempt, so no more than three.
        if chance.random() > 0.2 or len(broken) == 3:
            request.give(content)
            return
        broken.append(start)
        request.say(206, Content_Length=end - start, Content_Range=f"bytes {start}-{end - 1}/{size}")
        request.wfile.write(content[start : start + chance.randrange(end - start)])
        request.close_connection = True

    part = tmp_path / "part"
    with serving(answer) as url:
        progress = download(part, url, size, missing=missing, connections=6)(threading.Event())
    expected = bytearray(size)
    for start, end in missing:
        expected[start:end] = content[start:end]
    assert part.read_bytes() == expected
    assert progress[-1] <= sum(end - start for start, end in missing)
    assert {start % MIB for start, _ in requested} == {0}
    assert all(any(first <= start < end <= last for first, last in missing) for start, end in requested)


def test_requests_get_smaller_towards_the_end(tmp_path: Path) -> None:
    size = 64 * MIB
    requested: list[int] = []

    def answer(request: Answer) -> None:
        start, end = request.span()
        requested.append((end - start) // MIB)
        request.give(bytes(size))

    with serving(answer) as url:
        download(tmp_path / "part", url, size, connections=1, chunk=4 * MIB)(threading.Event())
    assert requested == [32, 16, 8, 4, 4]


class BrokenLimit(RateLimit):
    def wait(self, received: int) -> None:
        raise TypeError("no error that a download expects")


def test_an_unexpected_error_in_a_thread_fails_the_attempt(tmp_path: Path) -> None:
    with serving(lambda request: request.give(bytes(MIB))) as url:
        run = download(tmp_path / "part", url, MIB, limit=BrokenLimit(1))
        with pytest.raises(RetryableError, match="TypeError: no error that a download expects"):
            run(threading.Event())


def test_an_ended_attempt_makes_no_further_request(tmp_path: Path) -> None:
    """One connection is refused for good while the others are busy."""
    size, ended = 16 * MIB, threading.Event()
    late: list[int] = []

    def answer(request: Answer) -> None:
        start, end = request.span()
        if ended.is_set():
            late.append(start)
        if start == 0:
            time.sleep(0.3)
            request.say(410)
            return
        request.say(206, Content_Length=end - start, Content_Range=f"bytes {start}-{end - 1}/{size}")
        for _ in range(40):
            request.wfile.write(bytes(1000))
            time.sleep(0.05)
        request.close_connection = True

    with serving(answer) as url:
        with pytest.raises(RetryableError, match="HTTP 410"):
            download(tmp_path / "part", url, size, connections=8)(threading.Event())
        time.sleep(1)  # for the server to take up what was sent before; the busy ones are done 1 s later
        ended.set()
        time.sleep(2)
    assert late == []


def test_nothing_is_written_after_the_end(tmp_path: Path) -> None:
    """The next attempt may be writing there."""
    ended, sent = threading.Event(), threading.Event()

    def answer(request: Answer) -> None:
        start, end = request.span()
        request.say(206, Content_Length=end - start, Content_Range=f"bytes {start}-{end - 1}/{2 * MIB}")
        request.wfile.write(bytes(1000))
        ended.wait(PATIENCE_S)
        request.wfile.write(bytes(end - start - 1000))
        sent.set()

    part, cancelled = tmp_path / "part", threading.Event()
    cancelled.set()
    with serving(answer) as url:
        with pytest.raises(CancelledError):
            download(part, url, 2 * MIB)(cancelled)
        ended.set()
        sent.wait(5)
        time.sleep(0.2)
    assert part.stat().st_size == 0


def test_a_whole_file_that_breaks_off_is_not_continued_with_another_whole_file(tmp_path: Path) -> None:
    """A server without ranges starts over with each request, so its bytes do not belong behind those that came."""
    content = random_file(tmp_path / "source", 3 * MIB, seed=6).read_bytes()

    def break_off(request: Answer) -> None:
        request.say(200, Content_Length=len(content))
        request.wfile.write(content[: 2 * MIB])
        request.close_connection = True

    part = tmp_path / "part"
    with serving(break_off) as url:
        run = download(part, url, len(content), whole=True)
        with pytest.raises(RetryableError, match="ignores Range"):
            run(threading.Event())
    assert part.read_bytes() == content[: 2 * MIB]
