"""Interrupted switches: a deploy undoes them, and the unit that does it at boot comes before every model."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from llamarig.engine.item import query
from llamarig.facts.jobs import RunningJobs
from llamarig.facts.switch_journal import UnfinishedSwitch
from llamarig.facts.unit_files import UnitFiles
from llamarig.items.switch_recovery import InterruptedSwitches
from llamarig.remote.serve import switch_journal
from llamarig.remote.serve.switch_journal import Journal, UnitBefore, write_journal
from llamarig.render import layout
from llamarig.render.switch_recovery import SERVICE, service_text

from tests.engine.fake_run import converged_commands
from tests.items.converged_box import Box, converged_box, cpu_rig, write_lock_file

UNIT = "llamarig-m.service"
JOURNAL = f"unit={UNIT}"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    rig = cpu_rig(models=("m", "n"), model_lock=str(tmp_path / "lock.json"), plan_file=str(tmp_path / "plans.json"))
    write_lock_file(rig)
    return converged_box(rig)


def commands(box: Box) -> list[str]:
    """Commands that change the box."""
    sent = converged_commands([InterruptedSwitches()], box.rig, box.replies())
    return [one for one in sent if "restore_served" in one or "systemctl" in one.split()[:1]]


def test_a_box_without_an_interrupted_switch_is_as_declared(box: Box) -> None:
    assert box.differences(InterruptedSwitches()) == []


def test_a_deploy_restores_what_served_before_an_interrupted_switch(box: Box) -> None:
    box.outputs[query(UnfinishedSwitch)] = JOURNAL
    (difference,) = box.differences(InterruptedSwitches())
    assert difference.what == f"switch of {UNIT}"
    (restored,) = commands(box)
    assert f"restore_served {layout.PROOFS} {layout.JOBS};" in restored


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (0, f"[@fake] {UNIT}, which served before, was started again"),
        (2, "what served before an interrupted switch is not wholly restored"),
    ],
)
def test_a_deploy_shows_what_became_of_what_served(
    box: Box, caplog: pytest.LogCaptureFixture, code: int, shown: str
) -> None:
    """And goes on also where it does not serve again: the switches that follow may mend that."""
    caplog.set_level("INFO", logger="pyinfra")
    box.outputs[query(UnfinishedSwitch)] = JOURNAL
    message = f"{UNIT}, which served before, was started again"
    answer = {"stdout": f"code={code}", "stderr": message}
    converged_commands([InterruptedSwitches()], box.rig, {re.compile("restore_served"): answer, **box.replies()})
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if shown in line]
    assert [line for line in lines if message in line]


def test_a_switch_that_runs_is_not_undone(box: Box) -> None:
    box.outputs[query(UnfinishedSwitch)] = JOURNAL
    box.outputs[query(RunningJobs)] = "switch-m\tSat 2026-11-21 19:00:00 UTC\t{}"
    assert box.differences(InterruptedSwitches()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [("UnitFileState=enabled", "UnitFileState=disabled"), ("NeedDaemonReload=no", "NeedDaemonReload=yes")],
)
def test_the_unit_is_run_at_boot(box: Box, old: str, new: str) -> None:
    unit = query(UnitFiles, names=[SERVICE])
    box.outputs[unit] = box.outputs[unit].replace(old, new)
    (difference,) = box.differences(InterruptedSwitches())
    assert difference.what == SERVICE
    assert f"systemctl --quiet enable {SERVICE}" in commands(box)


def test_the_unit_comes_before_every_model_and_names_none() -> None:
    """Services start after basic.target. A name would make each change of a rig's models one of this unit."""
    text = service_text()
    assert {"DefaultDependencies=no", "Before=basic.target shutdown.target"} <= set(text.splitlines())
    assert "llamarig-" not in text.replace(".llamarig-before", "")
    assert f"ConditionPathExists=|{layout.PROOFS}/{switch_journal.JOURNAL}" in text
    # After a power cut before the journal is written.
    assert f"ConditionPathExistsGlob=|{layout.UNITS}/{switch_journal.copy_of('*').name}" in text


def found(directory: Path) -> str:
    """Run the fact's command on this machine."""
    command = UnfinishedSwitch().command().replace(layout.PROOFS, str(directory))
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    return UnfinishedSwitch().process(done.stdout.splitlines())


def test_the_journal_on_the_box_is_found_by_its_unit(tmp_path: Path) -> None:
    assert found(tmp_path) == ""
    write_journal(tmp_path, Journal(UNIT, None, "", None, (UnitBefore(UNIT, True, True),), 900, 8080))
    assert found(tmp_path) == UNIT
    (tmp_path / switch_journal.JOURNAL).write_text("damaged")
    assert found(tmp_path) == "an unknown unit"
