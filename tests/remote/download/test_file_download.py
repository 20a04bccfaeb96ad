"""A partial file is kept, whatever a server answers; only as much as may be fetched twice is discarded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.fetch_run import MIB, PATIENCE_S, FetchRun, random_file
from tests.box.hub import Hub
from tests.box.hub_faults import Fault

SIZE = 12 * MIB + 345
THERE = 8 * MIB


@pytest.fixture
def half(tmp_path: Path) -> Iterator[FetchRun]:
    """A file with 8 of 12 MiB there, of which 1 MiB may be fetched twice; one connection."""
    source = random_file(tmp_path / "source", SIZE, seed=1)
    with Hub(tmp_path / "root") as hub:
        fetching = FetchRun(
            hub, tmp_path / "box", "acme/half-GGUF", {"m.gguf": source}, {"connections": 1, "refetch_bytes": MIB}
        )
        fetching.write_partial(0, [(0, THERE)])
        yield fetching


def requested_starts(fetching: FetchRun) -> list[int]:
    """First byte of each Range request."""
    ranges = [request.range for request in fetching.hub.log.requests() if request.origin == "cdn"]
    return [int(requested.removeprefix("bytes=").partition("-")[0]) for requested in ranges if requested]


def test_a_download_continues_after_a_cdn_has_ignored_range_requests(half: FetchRun) -> None:
    half.hub.faults.add(Fault(origin="cdn", ignore_range=True, times=3))
    ended = half.run()
    assert ended.code == 0, ended.log
    half.assert_complete()
    assert min(requested_starts(half)) == THERE


def test_a_server_that_ignores_range_requests_is_refused_and_the_partial_file_kept(half: FetchRun) -> None:
    half.job["give_up_after_s"] = 2
    half.hub.faults.add(Fault(origin="cdn", ignore_range=True))
    ended = half.run()
    assert ended.code == 1
    assert "ignores Range requests" in ended.message
    part = Path(half.job["files"][0]["partial"])
    assert f"or delete {part} on the box" in ended.message
    assert part.read_bytes()[:THERE] == half.sources["m.gguf"].read_bytes()[:THERE]
    assert min(requested_starts(half)) == THERE
    # As the message says. Two attempts are refused first, which takes a busy machine a while.
    half.job["give_up_after_s"] = PATIENCE_S
    part.unlink()
    ended = half.run()
    assert ended.code == 0, ended.log
    half.assert_complete()


def test_a_small_part_is_fetched_again_in_one_piece(half: FetchRun) -> None:
    half.job["refetch_bytes"] = THERE
    half.hub.faults.add(Fault(origin="cdn", ignore_range=True))
    ended = half.run()
    assert ended.code == 0, ended.log
    half.assert_complete()
