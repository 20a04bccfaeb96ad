"""Downloads with random kills and random faults end with the right bytes and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.deployment import wait_for
from tests.box.fetch_run import MIB, FetchRun, random_file
from tests.box.hub import Hub
from tests.box.hub_faults import Fault

DOWNLOADS, LONG_DOWNLOADS = 20, 60
"""Without and with `python3 -m tests long`; the faults of each follow from its number."""
KILLED_WHILE_RUNNING: list[bool] = []


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Hub(tmp_path_factory.mktemp("root")) as hub:
        yield hub


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of odd sizes: below one chunk, of whole chunks, and a byte more or less."""
    directory = tmp_path_factory.mktemp("pool")
    sizes = (1000, MIB - 1, MIB, MIB + 1, 3 * MIB, 4 * MIB + 4095, 6 * MIB + 4097)
    return [random_file(directory / str(size), size, seed=size) for size in sizes]


def random_fault(chance: random.Random) -> Fault:
    times = chance.randint(1, 6)
    return chance.choice(
        [
            Fault(origin="cdn", reset_after_bytes=chance.randrange(2 * MIB), times=times),
            Fault(origin="cdn", truncate_after_bytes=chance.randrange(2 * MIB), times=times),
            Fault(origin=chance.choice(["hub", "cdn"]), status=chance.choice([500, 502, 503]), times=times),
            Fault(origin=chance.choice(["hub", "cdn"]), status=429, retry_after=chance.randint(0, 1), times=times),
            Fault(origin="cdn", status=403, times=times),
            Fault(origin="cdn", ignore_range=True, times=times),
            Fault(origin="cdn", corrupt=True, times=1),
            Fault(origin="cdn", delay_s=chance.random(), times=times),
            Fault(origin="hub", expire_after_s=chance.random() / 2, times=times),
            Fault(origin="cdn", bytes_per_s=chance.randint(100_000, 2_000_000), times=times),
            Fault(origin="cdn", redirect_loop=True, times=times),
        ]
    )


def kill_when_moved(fetching: FetchRun, wanted: float) -> None:
    running = fetching.start()
    wait_for(lambda: running.poll() is not None or fetching.bytes_sent() >= wanted, "the bytes before the kill")
    KILLED_WHILE_RUNNING.append(running.poll() is None)
    fetching.kill(running)


@pytest.mark.parametrize(
    "seed",
    [*range(DOWNLOADS), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(DOWNLOADS, LONG_DOWNLOADS))],
)
def test_a_download_with_random_kills_and_faults_ends_with_the_right_bytes(
    seed: int, served: Hub, pool: list[Path], tmp_path: Path
) -> None:
    chance = random.Random(seed)
    sources = {f"m{number}.gguf": path for number, path in enumerate(chance.sample(pool, chance.randint(1, 3)))}
    fetching = FetchRun(served, tmp_path, f"acme/random-{seed}", sources, {"patience_s": 3, "backoff_s": 0.02})
    served.log.clear()
    faults = [random_fault(chance) for _ in range(chance.randint(0, 3))]
    kills = [chance.random() for _ in range(chance.randint(0, 3))]
    # So slow that a kill finds it running.
    served.faults.add(Fault(origin="cdn", bytes_per_s=MIB), *faults)
    try:
        for share in kills:
            kill_when_moved(fetching, fetching.bytes_sent() + share * max(0, fetching.size - fetching.bytes_sent()))
            fetching.assert_no_wrong_bytes()
        served.faults.clear()
        served.faults.add(*faults)
        ended = fetching.run()
        fetching.assert_no_wrong_bytes()
    finally:
        served.faults.clear()
    if ended.code:
        # A fault may outlast the retries; the next run, without faults, resumes.
        assert ended.status["state"] == "failed", ended.log
        assert "Traceback" not in ended.log
        ended = fetching.run()
    print(f"killed after {kills}, {faults}: {(fetching.bytes_sent() - fetching.size) / MIB:.2f} MiB fetched twice")
    assert ended.code == 0, ended.log
    fetching.assert_complete()


def test_most_kills_hit_a_running_download() -> None:
    """Otherwise the downloads above were not disturbed."""
    if len(KILLED_WHILE_RUNNING) < DOWNLOADS // 2:
        pytest.skip("only with all of the above")
    assert sum(KILLED_WHILE_RUNNING) >= len(KILLED_WHILE_RUNNING) * 2 / 3
