"""Which running download a deploy waits for, and what it says about one that is in its way."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.planning.fetch_under_way import RunningJob, in_the_way, lacking
from tasks.planning.shards import StoredFile, fetch_job, shard_differences, target
from tests.planning.test_shards import FILE, LOCKED, OTHER, WHOLE, rig

WHOLE_JOB = fetch_job(shard_differences([LOCKED], {}), rig().hub, {})
REST = fetch_job(shard_differences([LOCKED], {target(LOCKED, FILE): StoredFile(FILE.size, 5, 7, WHOLE)}), rig().hub, {})


def test_what_has_arrived_since_makes_no_other_download() -> None:
    assert [file["path"] for file in REST["files"]] == [OTHER.path]
    assert lacking(WHOLE_JOB, REST) == []
    assert lacking(WHOLE_JOB, WHOLE_JOB) == []


@pytest.mark.parametrize(
    ("running", "why"),
    [
        (REST, ["no m-00001-of-00002.gguf"]),
        ({**WHOLE_JOB, "bytes_per_s": 5}, ["another hub.max_mb_s"]),
        ({**WHOLE_JOB, "proxy": "http://proxy.lan:3128"}, ["another hub.proxy"]),
        ({**WHOLE_JOB, "endpoint": "http://mirror.lan"}, ["another hub.endpoint"]),
        # Another commit's files lie elsewhere, and a replaced file is another.
        (
            {**WHOLE_JOB, "files": [file | {"sha256": "e" * 64} for file in WHOLE_JOB["files"]]},
            ["no m-00001-of-00002.gguf", "no m-00002-of-00002.gguf"],
        ),
        (
            {},
            ["another hub.endpoint", "no m-00001-of-00002.gguf", "no m-00002-of-00002.gguf"],
        ),
    ],
)
def test_another_download_says_what_is_other(running: dict[str, Any], why: list[str]) -> None:
    assert lacking(running, WHOLE_JOB) == why


def test_a_file_that_counts_as_arrived_is_not_read_again_by_a_running_download() -> None:
    assert lacking(WHOLE_JOB, WHOLE_JOB, [target(LOCKED, FILE)]) == ["no m-00001-of-00002.gguf"]


def test_the_refusal_says_what_runs_since_when_and_what_to_do() -> None:
    running = RunningJob("...", WHOLE_JOB, "Sat 2026-11-21 19:00:00 UTC")
    said = in_the_way(running, ["another hub.max_mb_s"])
    for words in (
        "since Sat 2026-11-21 19:00:00 UTC: 2 files of o/r, 14.00 GiB",
        "not what is declared here (another hub.max_mb_s)",
        "run deploy.py again",
        "systemctl stop 'llamarig-job-fetch_*'",
    ):
        assert words in said
    assert "0 files of something unknown" in in_the_way(RunningJob("{"), ["no x"])
