"""A simulated box (tests/remote/serve/switched_box.py) on which settings of a model are timed.

server_stand_in.py answers each request after the milliseconds of its mode: ms-50. The real llama-server is timed in
tests/box/test_tune.py.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from llamarig.remote.measure.tune_job import TakenSample, read_samples

from tests.remote.serve.switched_box import SwitchedBox

TUNE = """
import os, runpy, sys
from pathlib import Path
from llamarig.remote.serve import first_start, model_units
from llamarig.remote.shared.job_status import run_job
from llamarig.remote.measure import tune_unit
from llamarig.remote.measure.tune_job import TuneJob
model_units.UNITS = Path(sys.argv.pop(1))
first_start.RUNTIME_UNITS = model_units.UNITS / "runtime"
tune_unit._PAUSE_S = tune_unit._LOOK_S = 0.0
run_job(TuneJob, tune_unit.tune, unwinds=True)
"""
WORKLOAD = {"name": "short", "turns": [{"adds": 64, "generates": 8}, {"adds": 16, "generates": 8}]}


class TunedBox:
    """The box, and the job that times candidates against ms-400."""

    def __init__(
        self, box: SwitchedBox, stage: str, *modes: str, minutes: float = 10.0, current: str = "ms-400"
    ) -> None:
        self.box, self.samples = box, box.root / "tune" / "samples.jsonl"
        self.job: dict[str, Any] = {
            "stage": stage,
            "current": box.job_of(box.text(current)),
            "candidates": [{"name": mode, "job": box.job_of(box.text(mode))} for mode in modes],
            "workload": WORKLOAD,
            "slots": 1,
            "minutes": minutes,
            "samples": str(self.samples),
        }

    def start(self) -> subprocess.Popen[bytes]:
        return self.box.start_job(TUNE, self.job, "switch-a.tune")

    def run(self) -> str:
        """Run the job; return its state and message."""
        self.start().wait(timeout=600)
        return self.box.ended()

    def taken(self) -> list[TakenSample]:
        return read_samples(self.samples)

    def replace_samples(self, samples: list[TakenSample]) -> None:
        self.samples.write_text("".join(f"{json.dumps(one.to_json())}\n" for one in samples))
