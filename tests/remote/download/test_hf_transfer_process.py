"""The hf_transfer process detects servers that send the whole file instead of a requested range."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from llamarig.remote.download.hf_transfer_process import hf_transfer, link_of
from llamarig.remote.download.transfer import RangeIgnoredError, Transfer

from tests.box.fetch_run import MIB, REPOSITORY_ROOT
from tests.remote.download.one_file_server import Answer, serving

CONTENT = random.Random(7).randbytes(9 * MIB + 123)


@contextmanager
def server(ignores: int | None) -> Iterator[str]:
    """Serves CONTENT by ranges, but for the one that begins there, which it answers with the whole of it."""

    def answer(request: Answer) -> None:
        start, end = request.span()
        if end > 1 and start == ignores:
            request.say(200, Content_Length=len(CONTENT))
            request.wfile.write(CONTENT)
        else:
            request.give(CONTENT)

    with serving(answer) as url:
        yield f"{url}/file"


def fetch(part: Path, url: str, progress: list[int]) -> bool:
    part.touch()
    lock = os.open(part.with_name("lock"), os.O_RDWR | os.O_CREAT)
    try:
        transfer = Transfer(url, {}, None, str(part), len(CONTENT), connections=4, chunk=MIB, patience_s=60)
        return hf_transfer(transfer, lock, threading.Event(), progress.append)
    finally:
        os.close(lock)


@pytest.mark.parametrize(("ignores", "once"), [(None, True), (0, False)])
def test_a_whole_file_instead_of_the_first_chunk_is_noticed(
    ignores: int | None, once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY_ROOT)
    progress: list[int] = []
    with server(ignores) as url:
        assert fetch(tmp_path / "part", url, progress) is once
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert progress[-1] == len(CONTENT)
    assert not link_of(tmp_path / "part").exists()


@pytest.mark.parametrize("ignores", [2 * MIB, 9 * MIB])
def test_a_whole_file_instead_of_another_chunk_ends_it(
    ignores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY_ROOT)
    with server(ignores) as url, pytest.raises(RangeIgnoredError, match="more than the requested range"):
        fetch(tmp_path / "part", url, [])
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
