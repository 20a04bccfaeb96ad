"""The liveness probe's units: written, reloaded and started, or stopped where the owner declines the probe."""

from __future__ import annotations

import pytest
from llamarig import declare as d
from llamarig.engine.item import query
from llamarig.facts.unit_files import UnitFiles
from llamarig.items.liveness_probe import LivenessProbe
from llamarig.render.liveness_probe import SERVICE, TIMER, service_text

from tests.engine.fake_run import converged_commands
from tests.items.converged_box import Box, converged_box, cpu_rig

UNITS = query(UnitFiles, names=[SERVICE, TIMER])


@pytest.fixture
def box() -> Box:
    return converged_box(cpu_rig())


def declined() -> Box:
    box = converged_box(cpu_rig())
    return Box(cpu_rig(host=d.host_policy(liveness_probe=False)), box.here, box.outputs)


def test_the_memory_of_the_probe_is_limited() -> None:
    """It is root's, and what servers answer is as large as they like."""
    assert {"MemoryMax=512M", "MemorySwapMax=0"} <= set(service_text([]).splitlines())


def test_units_as_declared_have_no_difference(box: Box) -> None:
    assert box.differences(LivenessProbe()) == []


def test_missing_units_are_written_and_the_timer_started(box: Box) -> None:
    box.outputs[UNITS] = ""
    assert {one.what for one in box.differences(LivenessProbe())} == {SERVICE, TIMER}
    commands = converged_commands([LivenessProbe()], box.rig)
    assert [command for command in commands if command.startswith("systemctl") and " show" not in command] == [
        "systemctl daemon-reload",
        f"systemctl --quiet enable {TIMER}",
        f"systemctl restart {TIMER}",
    ]


def test_a_stopped_timer_is_started(box: Box) -> None:
    before, timer = box.outputs[UNITS].split(f"unit={TIMER}")
    box.outputs[UNITS] = f"{before}unit={TIMER}{timer.replace('ActiveState=active', 'ActiveState=inactive')}"
    (difference,) = box.differences(LivenessProbe())
    assert difference.what == TIMER


def test_a_changed_file_that_systemd_has_not_read_is_reloaded(box: Box) -> None:
    box.outputs[UNITS] = box.outputs[UNITS].replace("NeedDaemonReload=no", "NeedDaemonReload=yes")
    (difference,) = box.differences(LivenessProbe())
    assert difference.what == "systemd"


def test_a_declined_probe_is_stopped() -> None:
    box = declined()
    (difference,) = box.differences(LivenessProbe())
    assert difference.what == TIMER
    commands = converged_commands([LivenessProbe()], box.rig, box.replies())
    assert commands[-1] == f"systemctl --quiet disable --now {TIMER}"


def test_a_declined_and_absent_probe_has_no_difference() -> None:
    box = declined()
    box.outputs[UNITS] = ""
    assert box.differences(LivenessProbe()) == []
