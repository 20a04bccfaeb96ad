"""The status file of a job: on a full disk, and while the clock is corrected."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import pytest
from llamarig.remote.shared.job_status import Progress


@pytest.mark.parametrize("must_write", [True, False])
def test_a_status_file_that_cannot_be_written_does_not_stop_a_restore(tmp_path: Path, must_write: bool) -> None:
    """/dev/full fails as a copy-on-write filesystem does, where overwriting needs free space too."""
    for name in ("status.json", "status.part"):
        (tmp_path / name).symlink_to("/dev/full")
    progress = Progress(tmp_path)
    progress.must_write = must_write
    with pytest.raises(OSError, match="No space left") if must_write else contextlib.nullcontext():
        progress.step("restoring what served before")


def test_a_corrected_clock_changes_no_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(tmp_path)
    progress.step("downloading", done=0, total=100, unit="bytes")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86400)
    progress.step("downloading", done=100, total=100, unit="bytes")
    status = json.loads((tmp_path / "status.json").read_text())
    assert 0 <= status["now"] - status["step_started"] < 60
