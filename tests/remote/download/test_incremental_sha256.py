"""The sha256 made during a download is right, whatever order the bytes arrive in."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from llamarig.remote.download.incremental_sha256 import IncrementalSha256

from tests.box.fetch_run import MIB, PATIENCE_S

CONTENT = random.Random(7).randbytes(9 * MIB + 123)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("seed", range(4))
def test_the_digest_is_right_for_chunks_in_any_order(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    part = tmp_path / "part"
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT)
    hasher = IncrementalSha256(part, lag=MIB)
    starts = list(range(0, len(CONTENT), MIB))
    chance.shuffle(starts)
    for start in starts:
        os.pwrite(descriptor, CONTENT[start : start + MIB], start)
        time.sleep(chance.random() / 10)
    os.close(descriptor)
    wait_until(lambda: hasher.hashed == len(CONTENT) // MIB * MIB - MIB)
    assert hasher.finish() == SHA256


def test_a_chunk_that_is_fetched_again_is_not_hashed_before(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(CONTENT[: 3 * MIB] + bytes(MIB))
    hasher = IncrementalSha256(part, lag=MIB)
    wait_until(lambda: hasher.hashed == 3 * MIB)
    with part.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(CONTENT[3 * MIB :])
    assert hasher.finish() == SHA256


def test_finish_reports_progress_of_the_remaining_bytes(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(CONTENT)
    read: list[int] = []
    assert IncrementalSha256(part, lag=len(CONTENT)).finish(read.append) == SHA256
    assert read[-1] == len(CONTENT)
