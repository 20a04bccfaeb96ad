"""Which model files are missing, and whether there is disk space for the rest of them."""

from __future__ import annotations

import pytest
from llamarig.facts.model_store import StoredFile
from llamarig.items.download_job import CHUNK, CONNECTIONS, fetch_job, missing_files, room_missing
from llamarig.records.model_lock import LockedModel
from llamarig.render import layout
from llamarig.render.model_paths import GIB, partial, target

from tests.items.download_examples import ELSEWHERE, FILE, LOCKED, OTHER, SHA, WHOLE, rig


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (None, "missing"),
        (StoredFile(5, 5, 7, WHOLE), "5 bytes instead of"),
        (StoredFile(FILE.size, 5, 7), "changed since its sha256 was checked"),
        (StoredFile(FILE.size, 6, 7, WHOLE), "changed since its sha256 was checked"),
        (StoredFile(FILE.size, 5, 8, WHOLE), "changed since its sha256 was checked"),
        (StoredFile(FILE.size, 5, 7, {**WHOLE, "sha256": "d" * 64}), "changed since its sha256 was checked"),
    ],
)
def test_a_stored_file_that_differs_from_the_lock_counts_as_missing(stored: StoredFile | None, words: str) -> None:
    path = target(LOCKED, FILE)
    found = missing_files([LOCKED], {path: stored} if stored else {})
    assert words in str(next(difference for _, file, difference in found if file == FILE))


def test_a_file_as_locked_is_no_difference_until_its_bytes_say_otherwise() -> None:
    path = target(LOCKED, FILE)
    stored = {path: StoredFile(FILE.size, 5, 7, WHOLE)}
    assert [file for _, file, _ in missing_files([LOCKED], stored)] == [OTHER]
    assert [file for _, file, _ in missing_files([LOCKED], stored, {path: SHA})] == [OTHER]
    assert [file for _, file, _ in missing_files([LOCKED], stored, {path: "d" * 64})] == [FILE, OTHER]


def test_a_file_without_a_hash_after_a_deep_read_is_reported_as_unreadable() -> None:
    path = target(LOCKED, FILE)
    stored = {path: StoredFile(FILE.size, 5, 7, WHOLE), target(LOCKED, OTHER): StoredFile(5, 5, 8)}
    found = missing_files([LOCKED], stored, {target(LOCKED, OTHER): "d" * 64})
    (unreadable, short) = (difference for _, _, difference in found)
    assert "cannot be read" in unreadable.found
    assert not unreadable.by_deploy
    assert path in unreadable.remedy
    assert "5 bytes instead of" in short.found


@pytest.mark.parametrize(
    ("stored", "free_gib", "fits"),
    [
        ({}, 19, True),
        ({}, 18.99, False),
        # The downloaded part is not fetched again. The file's length is no measure, because the file is sparse.
        ({partial(FILE): StoredFile(FILE.size, 1, 1, allocated=6 * GIB)}, 13, True),
        ({partial(FILE): StoredFile(FILE.size, 1, 1, allocated=6 * GIB)}, 12.99, False),
        # A whole file without a record is only read.
        ({target(LOCKED, FILE): StoredFile(FILE.size, 1, 1, allocated=FILE.size)}, 9, True),
        ({target(LOCKED, FILE): StoredFile(FILE.size, 1, 1, allocated=FILE.size)}, 8.99, False),
        # The same bytes of another revision are linked, where their sha256 was checked.
        ({ELSEWHERE: StoredFile(FILE.size, 5, 7, WHOLE)}, 9, True),
        ({ELSEWHERE: StoredFile(FILE.size, 6, 7, WHOLE)}, 18.99, False),
    ],
)
def test_missing_disk_space_is_reported_with_its_parts(
    stored: dict[str, StoredFile], free_gib: float, fits: bool
) -> None:
    missing = missing_files([LOCKED], stored)
    short = room_missing(missing, stored, int(free_gib * GIB), rig())
    assert (short is None) == fits
    if short is not None:
        assert "14.00 GiB of model files to fetch" in str(short)
        assert "plus 5.00 GiB kept free" in str(short)
        assert f"{free_gib:.2f} GiB are free" in str(short)


def test_the_job_lists_verified_files_with_the_same_bytes() -> None:
    stored = {
        ELSEWHERE: StoredFile(FILE.size, 5, 7, WHOLE),
        f"{ELSEWHERE}.changed": StoredFile(FILE.size, 6, 7, WHOLE),
        f"{ELSEWHERE}.other": StoredFile(FILE.size, 5, 7, {**WHOLE, "sha256": "e" * 64}),
        f"{ELSEWHERE}.unchecked": StoredFile(FILE.size, 5, 7),
    }

    def same(stored: dict[str, StoredFile]) -> list[tuple[str, ...]]:
        job = fetch_job(missing_files([LOCKED], stored), rig().hub, stored)
        return [file.same for file in job.files]

    assert same(stored) == [(ELSEWHERE,), ()]
    # What has its name and is not right may be that very inode.
    assert same({**stored, target(LOCKED, FILE): StoredFile(FILE.size, 5, 7)}) == [(), ()]


def test_nothing_to_fetch_needs_no_room_even_below_the_reserve() -> None:
    stored = {target(LOCKED, file): StoredFile(file.size, 1, 1, allocated=file.size) for file in LOCKED.files}
    assert room_missing(missing_files([LOCKED], stored), stored, 0, rig()) is None


def test_the_same_bytes_of_two_models_count_once() -> None:
    twin = LockedModel(repo="o/copy", commit="d" * 40, shards=(FILE, OTHER))
    assert room_missing(missing_files([LOCKED, twin], {}), {}, 19 * GIB, rig()) is None


def test_the_job_has_rate_limit_proxy_and_a_memory_limit() -> None:
    job = fetch_job(missing_files([LOCKED], {}), rig(max_mb_s=2.5, proxy="http://proxy.lan:3128").hub, {})
    assert job.bytes_per_s == 2_500_000
    assert job.proxy == "http://proxy.lan:3128"
    assert job.group == layout.USER
    # A chunk is in memory once as it arrives and once as it is written.
    assert 2 * CONNECTIONS * CHUNK <= 192 * 1024**2
