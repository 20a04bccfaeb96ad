"""What an audit reports about the plan file on the control machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llamarig.checks.base import Severity
from llamarig.declare.rig import Rig
from llamarig.engine.item import Query, query
from llamarig.facts.gpus import Gpus
from llamarig.facts.machine import MachineState
from llamarig.facts.model_store import ModelStore
from llamarig.facts.plannable_devices import HeldByServers
from llamarig.facts.releases import Releases
from llamarig.items.releases import release_directories
from llamarig.records.plan_file import read_plan_file, record_plan
from llamarig.records.store import RecordError

from tests.checks.example_boxes import H200_LINES
from tests.commands.audited import audited
from tests.engine.fake_run import HOST
from tests.items.converged_box import LOCKED, release_output, store_output, write_lock_file
from tests.placement.planned_box import BY_PLAN, H200_UUID, MODEL, planned


def rig(plan_file: Path) -> Rig:
    locked = str(plan_file.with_name("no-lock.json"))
    return BY_PLAN.model_copy(update={"plan_file": str(plan_file), "model_lock": locked})


def broken(tmp_path: Path, how: str) -> Path:
    file = tmp_path / "plans.json"
    match how:
        case "no JSON":
            file.write_text("{")
        case "no text":
            file.write_bytes(b"\xff\xfe{}")
        case "a directory":
            file.mkdir()
        case "for another number of GPUs":
            record_plan(str(file), HOST, MODEL, planned())
            text = file.read_text()
            assert text.count('"margins_mib": [\n') == 1
            file.write_text(text.replace('"margins_mib": [\n', '"margins_mib": [\n 384,\n'))
    return file


MEMINFO = "== meminfo\nMemTotal:       65536000 kB\nMemAvailable:   60000000 kB"


def ready(of: Rig) -> dict[Query[Any], str]:
    """Lock the models; the box has everything that a plan is made with."""
    write_lock_file(of)
    releases = release_directories(of)
    return {
        query(Releases, directories=releases): "\n".join(map(release_output, releases)),
        query(ModelStore): store_output([LOCKED]),
        query(MachineState): MEMINFO,
    }


BROKEN = ("no JSON", "no text", "a directory", "for another number of GPUs")


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize(
    ("only", "reporter"),
    [
        (("gpu.room", "memory.room"), "gpu.room"),
        (("memory.room",), "memory.room"),
        (("gpu", "memory", "llama.plans"), "llama.plans"),
    ],
)
def test_a_plan_file_that_cannot_be_read_is_one_finding(
    tmp_path: Path, how: str, only: tuple[str, ...], reporter: str
) -> None:
    file = broken(tmp_path, how)
    with pytest.raises(RecordError, match=r"plans\.json"):
        read_plan_file(str(file))
    of = rig(file)
    found = [one for one in audited(of, ready(of), *only).findings if "plans.json" in f"{one.about} {one.found}"]
    assert [(one.check, one.fails, one.by_deploy) for one in found] == [(reporter, True, False)]


def test_a_plan_file_that_cannot_be_read_is_reported_while_a_release_is_missing(tmp_path: Path) -> None:
    """It needs no release to be known unreadable."""
    of = rig(broken(tmp_path, "no JSON"))
    without = {one: text for one, text in ready(of).items() if one.fact is not Releases}
    found = audited(of, without, "llama.release", "llama.plans", "llama.units").failing
    assert [(one.check, one.about) for one in found if one.check != "llama.release"] == [("llama.plans", of.plan_file)]
    assert "llama.release" in {one.check for one in found}


def test_the_units_that_a_missing_plan_would_place_are_not_reported_with_it(tmp_path: Path) -> None:
    of = rig(broken(tmp_path, "no JSON"))
    found = audited(of, ready(of), "llama.units", "llama.plans").failing
    assert [(one.check, one.about) for one in found] == [("llama.plans", of.plan_file)]


def test_cards_of_a_plan_are_read_in_the_one_command(tmp_path: Path) -> None:
    of = rig(tmp_path / "plans.json")
    record_plan(of.plan_file, HOST, MODEL, planned())
    low = "\n".join(H200_LINES).replace("143771, 143156", "143771, 90000", 1)
    held = f"MainPID=812\nId=llamarig-m.service\n\npid 812\n812, {H200_UUID}, 9999"
    outputs: dict[Query[Any], str] = {query(Gpus): low, query(HeldByServers): held}
    result = audited(of, outputs, "gpu.room")
    assert len(result.commands) == 1
    assert "echo '@@llamarig 0'" in result.commands[0]
    (finding,) = result.findings
    assert finding.severity is Severity.ERROR
    assert "9999 more are held by our own servers" in finding.found
