"""No connection is left alone with what would take it hours: others take half of it, and each byte is fetched once."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from tasks.files.pieces import Piece, Pieces
from tests.box.fetching import MIB, PATIENCE_S, random_file
from tests.files.answering import Answer, fetching_from, serving, sha256


@pytest.mark.parametrize("bytes_per_s", [None, 500_000_000], ids=["unlimited", "rate-limited"])
def test_what_a_crawling_connection_has_left_comes_by_another(bytes_per_s: int | None, tmp_path: Path) -> None:
    """The server sends no more on that connection until somebody else asks for what it was to bring."""
    source = random_file(tmp_path / "source", 8 * MIB + 5, seed=5)
    content = source.read_bytes()
    helped = threading.Event()
    asked: list[int] = []
    crawled: list[int] = []

    def answer(request: Answer) -> None:
        if request.command == "HEAD":
            request.say(200, ETag=f'"{sha256(content)}"', Content_Length=len(content))
            return
        start, end = request.span()
        asked.append(start)
        if start > 6 * MIB:
            helped.set()
        if start != 5 * MIB or crawled:
            request.give(content)
            return
        crawled.append(start)
        request.say(206, Content_Length=end - start, Content_Range=f"bytes {start}-{end - 1}/{len(content)}")
        # The first MiB is written then; after a connection that is lost, what follows it is asked for.
        request.wfile.write(content[start : start + MIB + 1000])
        helped.wait(PATIENCE_S)
        request.wfile.write(content[start + MIB + 1000 : end])

    with serving(answer) as endpoint:
        fetching = fetching_from(
            endpoint, tmp_path, source, bytes_per_s=bytes_per_s, connections=2, chunk=4 * MIB, patience_s=24
        )
        fetching.put_there(0, [(0, MIB)])
        ended = fetching.run()
    assert ended.code == 0, ended.log
    fetching.assert_right()
    assert crawled
    assert sorted(asked)[-1] == 7 * MIB, "what nobody had claimed, in whole MiB"
    assert 6 * MIB not in asked, "the connection that crawls is not given up"


@pytest.mark.parametrize("seed", range(5))
def test_every_byte_is_fetched_once(seed: int) -> None:
    """Connections of very different speed, some of which break; all try to help as soon as they can."""
    chance = random.Random(seed)
    stretches = [(0, 20 * MIB), (30 * MIB, 37 * MIB + 11)]
    pieces = Pieces(stretches, chance.choice([MIB, 7 * MIB, 64 * MIB]), worth_s=0, limited=False)
    written: list[tuple[int, int]] = []
    lock = threading.Lock()

    def connection(pause_s: float, breaks: random.Random) -> None:
        while (piece := pieces.take()) is not None:
            while count := pieces.claim(piece, MIB):
                time.sleep(pause_s)
                if breaks.random() < 0.1:
                    break
                with lock:
                    written.append((piece.at, piece.at + count))
                pieces.wrote(piece)
            pieces.ended(piece)

    threads = [
        threading.Thread(target=connection, args=(chance.random() / 50, random.Random(number)), daemon=True)
        for number in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    joined: list[tuple[int, int]] = []
    for start, end in sorted(written):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    assert joined == stretches


def half_done(*, limited: bool, seconds: float) -> tuple[Pieces, Piece]:
    """One piece came whole within 100 s; of another, a quarter came within so many."""
    pieces = Pieces([(0, 8 * MIB)], 4 * MIB, worth_s=10, limited=limited)
    first, second = pieces.take(), pieces.take()
    assert first is not None
    assert second is not None
    while pieces.claim(first, MIB):
        pieces.wrote(first)
    first.since -= 100
    pieces.ended(first)
    pieces.claim(second, MIB)
    pieces.wrote(second)
    second.since -= seconds
    return pieces, second


@pytest.mark.parametrize(("limited", "seconds"), [(False, 50), (True, 500)])
def test_whoever_is_slow_is_helped(limited: bool, seconds: float) -> None:
    pieces, slow = half_done(limited=limited, seconds=seconds)
    shared = pieces.take()
    assert shared is not None
    assert (shared.start, shared.end, slow.end) == (6 * MIB, 8 * MIB, 6 * MIB)


def test_under_a_rate_limit_equals_leave_each_other_alone() -> None:
    """All are slow there, and another request would bring nothing sooner."""
    pieces, second = half_done(limited=True, seconds=50)
    shared: list[Piece | None] = []
    waiting = threading.Thread(target=lambda: shared.append(pieces.take()), daemon=True)
    waiting.start()
    waiting.join(1)
    assert shared == []
    while pieces.claim(second, MIB):
        pieces.wrote(second)
    pieces.ended(second)
    waiting.join(PATIENCE_S)
    assert shared == [None]
