"""What disturbs a sample, from the kernel's counters and a GPU's clocks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from llamarig.remote.measure import conditions
from llamarig.remote.measure.conditions import (
    Reading,
    conditions_between,
    disturbances,
    gpu_rows,
    read_now,
    watched,
)

BEFORE = Reading(at=0, busy=100, steal=0, processors=8, unit=50, ours=1, waits=0, throttles=0)
AFTER = replace(BEFORE, at=10, busy=150, unit=99, ours=1.2, waits=0.1)
"""Ten seconds in which the server used 49 of the 50 busy seconds of eight processors."""
QUIET = conditions_between(BEFORE, AFTER)


def test_the_servers_own_load_is_no_other_load() -> None:
    assert QUIET.other_load == pytest.approx(0.01)
    assert disturbances(QUIET, [], []) == ()


def test_another_programs_load_disturbs() -> None:
    found = conditions_between(BEFORE, replace(AFTER, busy=AFTER.busy + 24))
    assert disturbances(found, [QUIET], []) == ("other programs used 31 % of the processors, usually 1 %",)


def test_a_load_that_is_always_there_does_not() -> None:
    loaded = conditions_between(BEFORE, replace(AFTER, busy=AFTER.busy + 24))
    assert disturbances(loaded, [loaded, loaded, QUIET], []) == ()


def test_steal_disturbs() -> None:
    found = conditions_between(BEFORE, replace(AFTER, steal=8))
    assert disturbances(found, [QUIET], []) == ("the hypervisor took 10 % of the processors, usually 0 %",)


def test_others_waiting_for_disks_disturbs() -> None:
    found = conditions_between(BEFORE, replace(AFTER, waits=4))
    assert disturbances(found, [QUIET], []) == ("other programs waited for disks or memory 40 % of the time",)


def test_throttling_disturbs() -> None:
    found = conditions_between(BEFORE, replace(AFTER, throttles=2), [], ["GPU 0: too hot"])
    assert disturbances(found, [QUIET], []) == ("GPU 0: too hot", "a processor was too hot")


def test_other_clocks_disturb_only_beside_samples_of_the_same_candidate() -> None:
    before = conditions_between(BEFORE, AFTER, [(1900, 2400), (1920, 2400)])
    found = conditions_between(BEFORE, AFTER, [(1500, 2410), (1510, 2390), (1490, 2400)])
    assert before.gpu_mhz == (1910, 2400)
    assert disturbances(found, [before], [before]) == ("GPU 0 at 1500 MHz, before at 1910",)
    assert disturbances(found, [before], []) == ()


def test_a_kernel_that_does_not_tell_disturbs_nothing() -> None:
    silent = replace(BEFORE, unit=None), replace(AFTER, unit=None, busy=500)
    assert disturbances(conditions_between(*silent), [], []) == ()


def test_the_counters_of_this_machine_can_be_read() -> None:
    found = read_now("", str(os.getpid()))
    assert found.processors >= 1
    assert found.busy > 0
    assert found.unit == pytest.approx(sum(os.times()[:2]), abs=0.5)
    assert read_now("", "").unit is None


def test_the_counters_are_read_of_the_units_control_group(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/system.slice/llamarig-a.service"
    for file, text in {
        tmp_path / "proc/stat": "cpu  100 0 100 900 50 0 0 300 0 0\ncpu0 1 1\ncpu1 1 1\nintr 5\n",
        tmp_path / "proc/pressure/io": "some avg10=0.00 avg60=0.00 avg300=0.00 total=9000000\nfull total=1\n",
        tmp_path / "proc/77/stat": f"77 (a (b) c) S {'0 ' * 10}100 50 0 0 20 0 9\n",
        group / "io.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=4000000\n",
        tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    }.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = read_now("/system.slice/llamarig-a.service", "77", tmp_path)
    assert (found.processors, found.unit, found.waits, found.throttles) == (2, 1.5, 5.0, 3)
    assert found.steal / found.busy == pytest.approx(1.5)


def test_gpu_rows_are_read_as_nvidia_smi_prints_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for nvidia-smi, with the output of an H200 and of a card that does not report."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho '1980, 0x0000000000000001'\necho '[N/A], [N/A]'\necho '210, 0x0000000000000060'\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(conditions, "_NVIDIA_SMI", str(program))
    assert gpu_rows() == [(1980, 1), (0, 0), (210, 0x60)]
    monkeypatch.setattr(conditions, "_EVERY_S", 0.01)
    with watched("", "") as watch:
        while not watch._clocks:
            pass
        found = watch.conditions()
    assert found.gpu_mhz == (1980, 0, 210)
    assert found.throttled == ("GPU 2: too hot",)


def test_without_a_gpu_there_are_no_clocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(conditions, "_NVIDIA_SMI", str(tmp_path / "nvidia-smi"))
    assert gpu_rows() == []
