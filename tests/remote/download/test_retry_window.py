"""Outages are retried for a duration; failures that waiting does not fix, for a number of attempts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from llamarig.remote.download.retry_window import ATTEMPTS, RetryWindow
from llamarig.remote.download.transfer import RetryableError

from tests.box.fetch_run import MIB, FetchRun, random_file
from tests.box.hub import Hub
from tests.box.hub_faults import Fault


@pytest.fixture
def fetching(tmp_path: Path) -> Iterator[FetchRun]:
    """Two small files, one at a time, with a retry window that no loaded machine exceeds."""
    sources = {f"{number}.gguf": random_file(tmp_path / f"{number}", MIB + number, seed=number) for number in (1, 2)}
    job = {"give_up_after_s": 600, "backoff_s": 0.01, "files_at_a_time": 1}
    with Hub(tmp_path / "root") as hub:
        yield FetchRun(hub, tmp_path / "box", "acme/out-GGUF", sources, job)


OUTAGES = {
    "the Hub is down": Fault(origin="hub", status=503, times=ATTEMPTS + 3),
    "the Hub is flooded": Fault(origin="hub", status=429, times=ATTEMPTS + 3),
    # With Retry-After, so that a connection does not try four times by itself.
    "the CDN is down": Fault(origin="cdn", status=502, retry_after=0, times=ATTEMPTS + 3),
}


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES.keys())
def test_a_download_survives_an_outage_longer_than_six_attempts(fault: Fault, fetching: FetchRun) -> None:
    fetching.job["connections"] = 1
    fetching.hub.faults.add(fault)
    ended = fetching.run()
    assert ended.code == 0, ended.log
    assert ended.log.count("bytes are there") > ATTEMPTS
    fetching.assert_complete()


def test_a_download_survives_an_endpoint_unreachable_for_more_than_six_attempts(
    fetching: FetchRun, tmp_path: Path
) -> None:
    """The endpoint's port stays closed until the program has reported that often enough."""
    closed = Hub(tmp_path / "root")
    port = int(closed.endpoint.rpartition(":")[2])
    closed.start().stop()
    fetching.job["endpoint"] = closed.endpoint
    running = fetching.start()
    assert running.stdout is not None
    printed = [running.stdout.readline() for _ in range(ATTEMPTS + 2)]
    assert all("cannot be reached" in line for line in printed), printed
    with Hub(tmp_path / "root", port=port) as hub:
        hub.add_repo(fetching.repo, fetching.sources)
        ended = fetching.end(running)
    assert ended.code == 0, ended.log
    fetching.assert_complete()


def test_while_the_hub_is_down_only_the_first_file_is_requested(fetching: FetchRun) -> None:
    """If it does not answer for the first file, it will not for the next."""
    fetching.hub.faults.add(Fault(origin="hub", method="HEAD", status=503, times=1))
    ended = fetching.run()
    assert ended.code == 0, ended.log
    requested = [request.path[-6:] for request in fetching.hub.log.requests() if request.method == "HEAD"]
    assert requested == ["1.gguf", "1.gguf", "2.gguf"]


def test_permanent_errors_are_limited_by_attempts_instead_of_time(fetching: FetchRun) -> None:
    """Waiting does not fix them, so they are not retried for the duration of an outage."""
    fetching.hub.faults.add(Fault(origin="cdn", status=410))
    ended = fetching.run()
    assert ended.code == 1
    assert f"HTTP 410 (attempt {ATTEMPTS} without progress)" in ended.message


def test_waits_and_limits_count_from_the_last_progress() -> None:
    retries = RetryWindow(give_up_after_s=0.05, backoff_s=1)
    outage = RetryableError("unreachable", outage=True)
    assert [retries.wait(outage) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    threading.Event().wait(0.06)
    assert retries.exhausted(outage) is not None
    retries.restart()
    assert retries.wait(outage) == 1
    assert RetryWindow(600, 1).exhausted(outage) is None
    assert (
        RetryWindow(600, 1).exhausted(RetryableError("in a day", after_s=86400, outage=True)) == "asked to wait 86400 s"
    )
