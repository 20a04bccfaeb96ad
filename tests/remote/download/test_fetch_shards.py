"""The files of a job: linked where the store has their bytes, and given equal shares of the connections."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from llamarig.remote.download.fetch_shards import Fetch
from llamarig.remote.shared.job_status import Progress
from llamarig.remote.shared.jobs import FetchJob

from tests.box.fetch_run import FetchRun, random_file
from tests.box.hub import Hub

REPO = "acme/moving-GGUF"
SIZE = 3_000_000


@pytest.fixture
def renamed(tmp_path: Path) -> Iterator[FetchRun]:
    """A job for a file under a new name, after an earlier job has fetched its bytes under the old one."""
    source = random_file(tmp_path / "source", SIZE, seed=1)
    with Hub(tmp_path) as hub:
        first = FetchRun(hub, tmp_path / "first", REPO, {"old.gguf": source})
        assert first.run().code == 0
        (old,) = (file["target"] for file in first.job["files"])
        job = FetchRun(hub, tmp_path / "then", REPO, {"a/new.gguf": source})
        (file,) = job.job["files"]
        file["same"] = [f"{old}.gone", old]
        hub.log.clear()
        yield job


def old_and_new(job: FetchRun) -> tuple[Path, Path]:
    (file,) = job.job["files"]
    return Path(file["same"][-1]), Path(file["target"])


def test_a_file_that_the_store_has_under_another_name_is_linked(renamed: FetchRun) -> None:
    old, new = old_and_new(renamed)
    part = Path(renamed.job["files"][0]["partial"])
    part.parent.mkdir(parents=True)
    part.write_bytes(b"of a download that broke off")
    ended = renamed.run()
    assert ended.code == 0, ended.log
    assert renamed.hub.log.requests() == []
    assert old.samefile(new)
    renamed.assert_complete()
    renamed.hub.log.clear()
    assert renamed.run().code == 0
    assert renamed.hub.log.requests() == []


@pytest.mark.parametrize("change", ["modified", "no record", "other bytes"])
def test_a_file_that_is_not_verified_is_not_linked(renamed: FetchRun, change: str) -> None:
    old, new = old_and_new(renamed)
    if change == "modified":
        os.utime(old, ns=(1, 1))
    elif change == "no record":
        old.with_name(f".{old.name}.verified.json").unlink()
    else:
        old.unlink()
        os.link(random_file(old.with_name("other"), SIZE, seed=2), old)
    ended = renamed.run()
    assert ended.code == 0, ended.log
    assert not old.samefile(new)
    renamed.assert_complete()
    assert renamed.bytes_sent() >= SIZE


@pytest.mark.parametrize(
    ("files", "arrived", "share"), [(1, 0, 24), (4, 0, 6), (9, 0, 6), (9, 5, 6), (9, 6, 8), (9, 7, 12), (9, 8, 24)]
)
def test_connections_are_shared_equally_among_the_open_files(
    files: int, arrived: int, share: int, tmp_path: Path
) -> None:
    source = random_file(tmp_path / "source", 10, seed=1)
    hub = Hub(tmp_path / "root")
    job = FetchRun(hub, tmp_path / "box", "acme/m-GGUF", {f"{n}.gguf": source for n in range(files)}).job
    fetch = Fetch(FetchJob.from_json({**job, "connections": 24, "files_at_a_time": 4}), Progress(tmp_path))
    fetch.missing = fetch.downloads
    for download in fetch.missing[:arrived]:
        download.arrived = True
    assert fetch.connections() == share
