"""Which running download a deploy waits for, and its message about another download that is running."""

from __future__ import annotations

from dataclasses import replace

import pytest
from llamarig.engine.jobs import job_text
from llamarig.facts.jobs import RunningJob
from llamarig.facts.model_store import StoredFile
from llamarig.items.download_conflicts import missing_from_running, running_download_refusal
from llamarig.items.download_job import fetch_job, missing_files
from llamarig.remote.shared.jobs import FetchJob
from llamarig.render.model_paths import target

from tests.items.download_examples import FILE, LOCKED, OTHER, WHOLE, rig

WHOLE_JOB = fetch_job(missing_files([LOCKED], {}), rig().hub, {})
REST = fetch_job(missing_files([LOCKED], {target(LOCKED, FILE): StoredFile(FILE.size, 5, 7, WHOLE)}), rig().hub, {})


def test_files_that_have_arrived_do_not_make_a_running_download_another_one() -> None:
    assert [file.path for file in REST.files] == [OTHER.path]
    assert missing_from_running(WHOLE_JOB, REST) == []
    assert missing_from_running(WHOLE_JOB, WHOLE_JOB) == []


@pytest.mark.parametrize(
    ("running", "why"),
    [
        (REST, ["no m-00001-of-00002.gguf"]),
        (replace(WHOLE_JOB, bytes_per_s=5), ["another hub.max_mb_s"]),
        (replace(WHOLE_JOB, proxy="http://proxy.lan:3128"), ["another hub.proxy"]),
        (replace(WHOLE_JOB, endpoint="http://mirror.lan"), ["another hub.endpoint"]),
        # Another commit's files lie elsewhere, and a replaced file is another.
        (
            replace(WHOLE_JOB, files=tuple(replace(file, sha256="e" * 64) for file in WHOLE_JOB.files)),
            ["no m-00001-of-00002.gguf", "no m-00002-of-00002.gguf"],
        ),
        (
            FetchJob.from_stored({}),
            ["another hub.endpoint", "no m-00001-of-00002.gguf", "no m-00002-of-00002.gguf"],
        ),
    ],
)
def test_the_differences_to_a_running_download_are_listed(running: FetchJob, why: list[str]) -> None:
    assert missing_from_running(running, WHOLE_JOB) == why


def test_a_file_that_counts_as_arrived_is_not_read_again_by_a_running_download() -> None:
    assert missing_from_running(WHOLE_JOB, WHOLE_JOB, [target(LOCKED, FILE)]) == ["no m-00001-of-00002.gguf"]


def test_the_refusal_names_the_running_download_its_start_and_the_remedy() -> None:
    running = RunningJob(job_text(WHOLE_JOB), "Sat 2026-11-21 19:00:00 UTC")
    message = running_download_refusal(running, ["another hub.max_mb_s"])
    for words in (
        "since Sat 2026-11-21 19:00:00 UTC: 2 files of o/r, 14.00 GiB",
        "does not fetch what is declared here (another hub.max_mb_s)",
        "run deploy.py again",
        "systemctl stop 'llamarig-job-fetch_*'",
    ):
        assert words in message
    assert "0 files of an unknown repository" in running_download_refusal(RunningJob("{"), ["no x"])
