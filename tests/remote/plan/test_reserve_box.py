"""A reservation lasts as long as dry runs are made, and ends by itself after the last."""

from __future__ import annotations

import os
import time
from pathlib import Path
from threading import Thread

from llamarig.remote.plan.reserve_box import reserve
from llamarig.remote.shared.job_status import Progress
from llamarig.remote.shared.jobs import ReservationJob

IDLE_S = 2.0


def test_a_reservation_ends_some_time_after_the_last_dry_run(tmp_path: Path) -> None:
    """By a change of the file's time alone: the clock of the box may be set back meanwhile."""
    touched, renewed = tmp_path / "dry-run", []

    def renew() -> None:
        for age in (0, 3600, 7200):
            touched.touch()
            os.utime(touched, (time.time() - age,) * 2)
            renewed.append(time.monotonic())
            time.sleep(IDLE_S / 2)

    thread = Thread(target=renew)
    thread.start()
    result = reserve(ReservationJob(touched=str(touched), idle_s=IDLE_S), Progress(tmp_path))
    ended = time.monotonic()
    thread.join()
    assert result == "no dry run for 2 s"
    assert len(renewed) == 3
    assert ended - renewed[-1] > IDLE_S - 0.1


def test_a_reservation_without_any_dry_run_ends(tmp_path: Path) -> None:
    assert reserve(ReservationJob(touched=str(tmp_path / "none"), idle_s=0.1), Progress(tmp_path))
