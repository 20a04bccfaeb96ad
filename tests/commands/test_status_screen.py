"""The screen of tasks/status.py: what it says of models in each state, of memory, and of jobs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from llamarig.commands.status_screen import BoxState, status_lines
from llamarig.facts.gpus import Gpu, GpuState
from llamarig.facts.jobs import Job, RunningJob
from llamarig.facts.plannable_devices import HeldMemory
from llamarig.facts.units import Unit
from llamarig.remote.serve.server_activity import Activity
from llamarig.remote.shared.jobs import JobStatus

from tests.items.converged_box import cpu_rig

UNIT = "llamarig-m.service"
COMMAND = ("/opt/llamarig/llama.cpp/0c1e57098-a1b2c3d4/bin/llama-server", "--host", "0.0.0.0", "--port", "8080")
RUNS = Unit(
    active="active",
    health=200,
    age_s=7500,
    text="[Service]\nExecStart=x\n",
    arguments=(*COMMAND, "--ctx-size", "65536"),
)
WORKS = Activity(ready=True, slots=2, busy=1, waiting=3, prompt_per_second=184.06, generation_per_second=68.46)


def box(unit: Unit, activity: Activity | None = None, **fields: Any) -> BoxState:
    return BoxState(models=cpu_rig().models, units={UNIT: unit}, activity={UNIT: activity or Activity()}, **fields)


def test_a_running_model_has_its_release_address_speed_and_queue() -> None:
    assert status_lines(box(RUNS, WORKS)) == [
        "m  answers, runs for 2.1 h; llama.cpp 0c1e570 on 0.0.0.0:8080, context 65536",
        "   last request 68.5 tokens/s, prompt 184 tokens/s; 1 of 2 slots busy; 3 waiting",
    ]


@pytest.mark.parametrize(
    ("unit", "activity", "said"),
    [
        (Unit(), Activity(), "not installed: run deploy.py"),
        (replace(RUNS, active="inactive", arguments=()), Activity(), "stopped"),
        (replace(RUNS, active="failed", arguments=()), Activity(), "failed: see its log"),
        (replace(RUNS, health=503), Activity(loaded_mib=512), "loading, 25 % for 2.1 h; "),
        (replace(RUNS, active="activating", health=0), Activity(), "loading for 2.1 h; "),
        (replace(RUNS, health=0), Activity(), "does not answer, runs for 2.1 h; "),
        (RUNS, Activity(ready=True, asleep=True), "asleep, until the next request; runs for 2.1 h; "),
    ],
)
def test_each_state_of_a_model_is_told_in_words(unit: Unit, activity: Activity, said: str) -> None:
    first, *_ = status_lines(box(unit, activity, sizes_mib={"m": 2048}))
    assert first.removeprefix("m  ").startswith(said)


def test_memory_that_is_held_and_free() -> None:
    card = Gpu(0, "GPU-1", "RTX 4090", total_mib=24564, free_mib=4096, compute_capability="", driver="", bus_id="")
    held = HeldMemory(vram_mib={UNIT: {"GPU-1": 20468}}, ram_mib={UNIT: 2048}, mem_available_mib=8192)
    lines = status_lines(box(RUNS, held=held, gpus=GpuState(gpus=(card,)), total_ram_kib=16 << 20))
    assert lines[-2].strip() == "VRAM 20.0 GiB, RAM 2.0 GiB"
    assert lines[-1] == "RTX 4090 4.0 of 24.0 GiB free, RAM 8.0 of 16.0 GiB free"


def test_a_job_that_is_under_way_has_its_owner_and_progress() -> None:
    status = JobStatus(state="running", step="downloading", done=3, total=4, unit="MiB")
    running = {"fetch": RunningJob(since="Sat 2026-11-21 20:04:47 UTC", owner="anna@laptop")}
    lines = status_lines(box(RUNS, running=running, jobs={"fetch": Job(running=True, status=status)}))
    assert "by anna@laptop since Sat 2026-11-21 20:04:47 UTC: downloading" in lines[-1]
