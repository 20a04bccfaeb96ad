"""The budget of connections is divided among the files that are open when a mover starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.files.fetch_shards import Fetch
from tasks.files.job_status import Progress
from tests.box.fetching import Fetching, random_file
from tests.box.hub import Hub


@pytest.mark.parametrize(
    ("files", "arrived", "share"), [(1, 0, 24), (4, 0, 6), (9, 0, 6), (9, 5, 6), (9, 6, 8), (9, 7, 12), (9, 8, 24)]
)
def test_the_last_file_has_them_all(files: int, arrived: int, share: int, tmp_path: Path) -> None:
    source = random_file(tmp_path / "source", 10, seed=1)
    hub = Hub(tmp_path / "root")
    job = Fetching(hub, tmp_path / "box", "acme/m-GGUF", {f"{n}.gguf": source for n in range(files)}).job
    fetch = Fetch({**job, "connections": 24, "files_at_a_time": 4}, Progress(tmp_path))
    fetch.missing = fetch.downloads
    for download in fetch.missing[:arrived]:
        download.arrived = True
    assert fetch.connections() == share
