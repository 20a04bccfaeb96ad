"""Random kills and random faults: however a download is disturbed, it ends with the right bytes and nothing else."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.fetching import MIB, Fetching, random_file
from tests.box.hub import Hub
from tests.box.hub_faults import Fault

DOWNLOADS = 60


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


@pytest.mark.parametrize("seed", range(DOWNLOADS))
def test_ends_with_the_right_bytes(seed: int, served: Hub, pool: list[Path], tmp_path: Path) -> None:
    chance = random.Random(seed)
    sources = {f"m{number}.gguf": path for number, path in enumerate(chance.sample(pool, chance.randint(1, 3)))}
    fetching = Fetching(served, tmp_path, f"acme/random-{seed}", sources, {"patience_s": 3, "backoff_s": 0.02})
    served.log.clear()
    faults = [random_fault(chance) for _ in range(chance.randint(0, 3))]
    served.faults.add(*faults)
    kills = [chance.uniform(0.05, 1.5) for _ in range(chance.randint(0, 3))]
    try:
        for after_s in kills:
            running = fetching.start()
            time.sleep(after_s)
            fetching.cut_power(running)
            fetching.assert_nothing_bad()
        ended = fetching.run()
        fetching.assert_nothing_bad()
    finally:
        served.faults.clear()
    if ended.code:
        # What lasted longer than its patience is said; the next run, with a Hub in good order, goes on.
        assert ended.said["state"] == "failed", ended.log
        assert "Traceback" not in ended.log
        ended = fetching.run()
    print(f"killed after {kills}, {faults}: {(fetching.moved() - fetching.size) / MIB:.2f} MiB fetched twice")
    assert ended.code == 0, ended.log
    fetching.assert_right()
