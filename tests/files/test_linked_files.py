"""Bytes that the store has under another name, checked there, are linked; whatever is in doubt is fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.fetching import Fetching, random_file
from tests.box.hub import Hub

REPO = "acme/moving-GGUF"
SIZE = 3_000_000


@pytest.fixture
def moved_on(tmp_path: Path) -> Iterator[Fetching]:
    """A job for a file under a new name, after an earlier job has fetched its bytes under the old one."""
    source = random_file(tmp_path / "source", SIZE, seed=1)
    with Hub(tmp_path) as hub:
        first = Fetching(hub, tmp_path / "first", REPO, {"old.gguf": source})
        assert first.run().code == 0
        (old,) = (file["target"] for file in first.job["files"])
        job = Fetching(hub, tmp_path / "then", REPO, {"a/new.gguf": source})
        (file,) = job.job["files"]
        file["same"] = [f"{old}.gone", old]
        hub.log.clear()
        yield job


def names(job: Fetching) -> tuple[Path, Path]:
    (file,) = job.job["files"]
    return Path(file["same"][-1]), Path(file["target"])


def test_the_same_bytes_are_linked(moved_on: Fetching) -> None:
    old, new = names(moved_on)
    part = Path(moved_on.job["files"][0]["partial"])
    part.parent.mkdir(parents=True)
    part.write_bytes(b"of a download that broke off")
    ended = moved_on.run()
    assert ended.code == 0, ended.log
    assert moved_on.hub.log.requests() == []
    assert old.samefile(new)
    moved_on.assert_right()
    moved_on.hub.log.clear()
    assert moved_on.run().code == 0
    assert moved_on.hub.log.requests() == []


@pytest.mark.parametrize("doubt", ["changed", "no record", "other bytes"])
def test_what_is_in_doubt_is_fetched(moved_on: Fetching, doubt: str) -> None:
    old, new = names(moved_on)
    if doubt == "changed":
        os.utime(old, ns=(1, 1))
    elif doubt == "no record":
        old.with_name(f".{old.name}.verified.json").unlink()
    else:
        old.unlink()
        os.link(random_file(old.with_name("other"), SIZE, seed=2), old)
    ended = moved_on.run()
    assert ended.code == 0, ended.log
    assert not old.samefile(new)
    moved_on.assert_right()
    assert moved_on.moved() >= SIZE
