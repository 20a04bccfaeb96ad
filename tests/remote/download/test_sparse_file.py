"""Zeros that a filesystem stores as holes count as downloaded."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import pytest

from tests.box.fetch_run import MIB, PATIENCE_S, random_file
from tests.remote.download.one_file_server import Answer, fetching_from, serving, sha256

ZEROS = range(4 * MIB, 6 * MIB)
KEEP_SIZE_AND_PUNCH_HOLE = 0x01 | 0x02


def keep_as_hole(part: Path) -> None:
    """Turn written zeros into a hole, as ZFS with compression does by itself."""
    descriptor = os.open(part, os.O_RDWR)
    try:
        for at in range(ZEROS.start, ZEROS.stop, MIB):
            deadline = time.monotonic() + PATIENCE_S
            while os.lseek(descriptor, at, os.SEEK_HOLE) < at + MIB:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        libc = ctypes.CDLL(None, use_errno=True)
        start, size = ctypes.c_int64(ZEROS.start), ctypes.c_int64(len(ZEROS))
        assert libc.fallocate(descriptor, KEEP_SIZE_AND_PUNCH_HOLE, start, size) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(descriptor)


ZEROS_STAY_HOLES = """
import os, threading
write, one_at_a_time = os.pwrite, threading.Lock()
def pwrite(descriptor, data, at):
    with one_at_a_time:
        if any(data) or len(data) < 1024**2:
            return write(descriptor, data, at)
        if os.fstat(descriptor).st_size < at + len(data):
            os.truncate(descriptor, at + len(data))
        return len(data)
os.pwrite = pwrite
"""


@pytest.mark.parametrize("bytes_per_s", [None, 500_000_000], ids=["hf_transfer", "ranges"])
def test_zeros_that_the_filesystem_keeps_as_a_hole_count_as_downloaded(
    bytes_per_s: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few filesystems do this, so it is simulated: pwrite is replaced, and holes are punched after hf_transfer."""
    (tmp_path / "sitecustomize.py").write_text(ZEROS_STAY_HOLES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    source = random_file(tmp_path / "source", 8 * MIB + 5, seed=4)
    with source.open("r+b") as file:
        file.seek(ZEROS.start)
        file.write(bytes(len(ZEROS)))
    content = source.read_bytes()

    def answer(request: Answer) -> None:
        if request.command == "HEAD":
            request.say(200, ETag=f'"{sha256(content)}"', Content_Length=len(content))
            return
        # hf_transfer cannot end before this piece has come.
        if bytes_per_s is None and request.span()[0] == ZEROS.stop:
            keep_as_hole(part)
        request.give(content)

    with serving(answer) as endpoint:
        fetching = fetching_from(endpoint, tmp_path, source, bytes_per_s=bytes_per_s)
        part = Path(fetching.job["files"][0]["partial"])
        ended = fetching.run()
    assert ended.code == 0, ended.log
    fetching.assert_complete()
    with Path(fetching.job["files"][0]["target"]).open("rb") as arrived:
        assert os.lseek(arrived.fileno(), ZEROS.start, os.SEEK_DATA) == ZEROS.stop, "there was no hole"
