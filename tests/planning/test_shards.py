"""Which model files are missing, and whether the rest of them still has room."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.planning import layout
from tasks.planning.lock_changes import lock_changes
from tasks.planning.shard_sets import NoSuchFilesError, of_quant
from tasks.planning.shards import (
    CHUNK,
    CONNECTIONS,
    GIB,
    StoredFile,
    fetch_job,
    partial,
    room_missing,
    shard_differences,
    target,
)
from tasks.spec import declare as d
from tasks.spec.model_lock import LockedFile, LockedModel
from tasks.spec.rig import Rig

SHA = "a" * 64
FILE = LockedFile(path="Q6/m-00001-of-00002.gguf", size=10 * GIB, sha256=SHA)
OTHER = LockedFile(path="Q6/m-00002-of-00002.gguf", size=4 * GIB, sha256="b" * 64)
LOCKED = LockedModel(repo="o/r", commit="c" * 40, shards=(FILE, OTHER))
ELSEWHERE = f"{layout.MODELS}/o/r/{'d' * 40}/renamed.gguf"
WHOLE = {"size": FILE.size, "mtime_ns": 5, "inode": 7, "sha256": SHA}


def rig(reserve: float = 5, **hub: Any) -> Rig:
    model = d.model(name="m", repo="o/r", quant="Q6", build="cpu", serve=d.serve(port=8080, context=4096))
    return Rig.model_validate(
        d.rig(
            builds=[d.build(name="cpu", backend="cpu")],
            models=[model],
            host=d.host_policy(disk_reserve_gib=reserve),
            hub=d.hub(**hub),
        )
    )


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (None, "not there"),
        (StoredFile(5, 5, 7, WHOLE), "5 bytes instead of"),
        (StoredFile(FILE.size, 5, 7), "changed since its sha256 was checked"),
        (StoredFile(FILE.size, 6, 7, WHOLE), "changed since its sha256 was checked"),
        (StoredFile(FILE.size, 5, 8, WHOLE), "changed since its sha256 was checked"),
        (StoredFile(FILE.size, 5, 7, {**WHOLE, "sha256": "d" * 64}), "changed since its sha256 was checked"),
    ],
)
def test_what_makes_a_file_missing(stored: StoredFile | None, words: str) -> None:
    path = target(LOCKED, FILE)
    found = shard_differences([LOCKED], {path: stored} if stored else {})
    assert words in str(next(difference for _, file, difference in found if file == FILE))


def test_a_file_as_locked_is_no_difference_until_its_bytes_say_otherwise() -> None:
    path = target(LOCKED, FILE)
    stored = {path: StoredFile(FILE.size, 5, 7, WHOLE)}
    assert [file for _, file, _ in shard_differences([LOCKED], stored)] == [OTHER]
    assert [file for _, file, _ in shard_differences([LOCKED], stored, {path: SHA})] == [OTHER]
    assert [file for _, file, _ in shard_differences([LOCKED], stored, {path: "d" * 64})] == [FILE, OTHER]


def test_a_file_that_was_asked_for_and_not_hashed_cannot_be_read() -> None:
    path = target(LOCKED, FILE)
    stored = {path: StoredFile(FILE.size, 5, 7, WHOLE), target(LOCKED, OTHER): StoredFile(5, 5, 8)}
    found = shard_differences([LOCKED], stored, {target(LOCKED, OTHER): "d" * 64})
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
        # What came before it broke off is not fetched again. Its length says nothing: the file has holes.
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
def test_room(stored: dict[str, StoredFile], free_gib: float, fits: bool) -> None:
    missing = shard_differences([LOCKED], stored)
    short = room_missing(missing, stored, int(free_gib * GIB), rig())
    assert (short is None) == fits
    if short is not None:
        assert "14.00 GiB of model files wanted" in str(short)
        assert "plus 5.00 GiB kept free" in str(short)
        assert f"{free_gib:.2f} GiB are free" in str(short)


def test_the_same_bytes_of_another_revision_are_told_to_the_job() -> None:
    stored = {
        ELSEWHERE: StoredFile(FILE.size, 5, 7, WHOLE),
        f"{ELSEWHERE}.changed": StoredFile(FILE.size, 6, 7, WHOLE),
        f"{ELSEWHERE}.other": StoredFile(FILE.size, 5, 7, {**WHOLE, "sha256": "e" * 64}),
        f"{ELSEWHERE}.unchecked": StoredFile(FILE.size, 5, 7),
    }

    def same(stored: dict[str, StoredFile]) -> list[list[str]]:
        job = fetch_job(shard_differences([LOCKED], stored), rig().hub, stored)
        return [file["same"] for file in job["files"]]

    assert same(stored) == [[ELSEWHERE], []]
    # What has its name and is not right may be that very inode.
    assert same({**stored, target(LOCKED, FILE): StoredFile(FILE.size, 5, 7)}) == [[], []]


def test_nothing_to_fetch_needs_no_room_even_below_the_reserve() -> None:
    stored = {target(LOCKED, file): StoredFile(file.size, 1, 1, allocated=file.size) for file in LOCKED.files}
    assert room_missing(shard_differences([LOCKED], stored), stored, 0, rig()) is None


def test_the_same_bytes_of_two_models_count_once() -> None:
    twin = LockedModel(repo="o/copy", commit="d" * 40, shards=(FILE, OTHER))
    assert room_missing(shard_differences([LOCKED, twin], {}), {}, 19 * GIB, rig()) is None


def test_the_job_says_the_whole_budget() -> None:
    job = fetch_job(shard_differences([LOCKED], {}), rig(max_mb_s=2.5, proxy="http://proxy.lan:3128").hub, {})
    assert job["bytes_per_s"] == 2_500_000
    assert job["proxy"] == "http://proxy.lan:3128"
    assert job["group"] == layout.USER
    # A chunk is in memory once as it arrives and once as it is written.
    assert 2 * CONNECTIONS * CHUNK <= 192 * 1024**2


PATHS = [
    "README.md",
    "mmproj-F16.gguf",
    "UD-Q4_K_XL/m-UD-Q4_K_XL-00001-of-00002.gguf",
    "UD-Q4_K_XL/m-UD-Q4_K_XL-00002-of-00002.gguf",
    "m-Q4_K_XL.gguf",
    "m-Q6_K-00001-of-00003.gguf",
    "m-Q6_K-00003-of-00003.gguf",
    "a/m-Q8_0.gguf",
    "b/m-Q8_0.gguf",
]


def test_a_quant_is_one_whole_set() -> None:
    assert of_quant("UD-Q4_K_XL", PATHS, "o/r") == PATHS[2:4]
    assert of_quant("Q4_K_XL", PATHS, "o/r") == ["m-Q4_K_XL.gguf"]


@pytest.mark.parametrize(
    ("quant", "words"),
    [
        ("Q6_K", "the shard set m-Q6_K is incomplete, missing m-Q6_K-00002-of-00003.gguf"),
        ("Q8_0", "means several sets of o/r: a/m-Q8_0.gguf, b/m-Q8_0.gguf; name one in files"),
        ("Q5_K_M", "has no quant Q5_K_M; it has m-UD-Q4_K_XL, "),
    ],
)
def test_what_is_not_one_whole_set_lists_what_there_is(quant: str, words: str) -> None:
    with pytest.raises(NoSuchFilesError) as refused:
        of_quant(quant, PATHS, "o/r")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        # Split anew, with the old shards still there.
        (
            ("-00001-of-00002", "-00002-of-00002", "-00001-of-00003", "-00002-of-00003", "-00003-of-00003"),
            "m-Q4-*-of-00002.gguf, m-Q4-*-of-00003.gguf;",
        ),
        (("-00002-of-00002", "-00001-of-00003"), "m-Q4-*-of-00003.gguf (1 of 3 there), m-Q4-*-of-00002.gguf (1 of 2"),
        (("", "-00001-of-00002", "-00002-of-00002"), "m-Q4-*-of-00002.gguf, m-Q4.gguf;"),
        # The whole file is not incomplete because a stale shard lies beside it; which is meant, the owner says.
        (("", "-00002-of-00002"), "m-Q4-*-of-00002.gguf (1 of 2 there), m-Q4.gguf;"),
    ],
)
def test_sets_of_one_name_are_told_apart(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(NoSuchFilesError) as refused:
        of_quant("Q4", [f"m-Q4{name}.gguf" for name in names], "o/r")
    assert f"means several sets of o/r: {said}" in str(refused.value)


def test_what_upstream_changed() -> None:
    newer = LockedModel(
        repo="o/r",
        commit="e" * 40,
        shards=(FILE.model_copy(update={"sha256": "f" * 64}), LockedFile(path="x.gguf", size=GIB, sha256=SHA)),
    )
    assert lock_changes(LOCKED, LOCKED.model_copy(update={"commit": "e" * 40})) == []
    assert lock_changes(LOCKED, newer) == [
        "no longer there: Q6/m-00002-of-00002.gguf",
        "new: x.gguf, 1.00 GiB",
        f"changed: Q6/m-00001-of-00002.gguf, 10.00 GiB to 10.00 GiB, sha256 {'a' * 12}... to {'f' * 12}...",
    ]
    as_mmproj = LOCKED.model_copy(update={"shards": (FILE,), "mmproj": OTHER})
    assert lock_changes(LOCKED, as_mmproj) == [f"locked as a file of the model, declared as mmproj: {OTHER.path}"]
