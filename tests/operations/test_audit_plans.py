"""What an audit makes of the plan file, which lies on the machine that audits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.operation import operation

from tasks.operations import Commands, audit
from tasks.operations.audit_run import RUN
from tasks.operations.plan_file import PlanError, read_plans, write_measured, write_plan
from tasks.operations.planning import models_planned
from tasks.planning.checks.base import Finding, Severity
from tasks.spec.plan_file import MeasuredPlacement
from tasks.spec.rig import Rig
from tests.operations.fake_run import run_of
from tests.planning.planned_box import BY_PLAN, H200_UUID, MODEL, planned
from tests.planning.test_checks import H200_LINES

HOST = "@fake"
LOOKS = ("gpu.room", "memory.room")


@operation()
def asked_at_once(rig: Rig) -> Commands:
    """As tasks/audit.py asks, before its operations."""
    audit.asked_at_once(rig, audit.Options(only=LOOKS), {})
    yield from ()


pytestmark = pytest.mark.usefixtures("audit_of_its_own")


def rig(plan_file: Path) -> Rig:
    locked = str(plan_file.with_name("no-lock.json"))
    return BY_PLAN.model_copy(update={"plan_file": str(plan_file), "model_lock": locked})


def audited(of: Rig, *only: str, before: tuple[Any, ...] = (), **responses: str) -> tuple[list[Finding], list[str]]:
    """What the audit finds, and the commands it ran on the box."""
    look = (audit.box_looked_at, {"name": "Audit: looking", "rig": of, "options": audit.Options(only=only)})
    with run_of(*before, look, responses=responses) as (_, commands):
        return RUN.found[HOST], commands


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
            write_plan(str(file), HOST, MODEL, planned())
            text = file.read_text()
            assert text.count('"margins_mib": [\n') == 1
            file.write_text(text.replace('"margins_mib": [\n', '"margins_mib": [\n 384,\n'))
    return file


BROKEN = ("no JSON", "no text", "a directory", "for another number of GPUs")


@pytest.mark.parametrize("how", BROKEN)
def test_a_plan_file_that_cannot_be_read_is_one_message(tmp_path: Path, how: str) -> None:
    file = broken(tmp_path, how)
    with pytest.raises(PlanError, match=r"plans\.json"):
        read_plans(str(file))
    of_units = (("gpu", "llama.units"), "llama.units")
    for only, teller in ((LOOKS, "gpu.room"), (("memory.room",), "memory.room"), of_units):
        told = [item for item in audited(rig(file), *only)[0] if "plans.json" in f"{item.about} {item.found}"]
        assert [(item.check, item.fails) for item in told] == [(teller, True)]


def test_deploys_own_refusal_of_the_plan_file_is_not_told_again(tmp_path: Path) -> None:
    of = rig(broken(tmp_path, "no JSON"))
    asked = (models_planned, {"name": "Services | Models planned", "rig": of, "_if": lambda: False})
    found, _ = audited(of, "llama.units", "deploy.operation", before=(asked,))
    assert [(item.check, item.about) for item in found] == [("llama.units", of.plan_file)]


def test_planned_cards_are_looked_at_in_the_one_command(tmp_path: Path) -> None:
    of = rig(tmp_path / "plans.json")
    write_plan(of.plan_file, HOST, MODEL, planned())
    low = "\n".join(H200_LINES).replace("143771, 143156", "143771, 90000", 1)
    held = f"pid 812\n812, {H200_UUID}, 9999"
    # In the order in which they are asked: modules, machine, cards, strays, RAM, what our own servers hold.
    answers = ["", "", low, "", "", held]
    said = "\n".join(f"@@llamarig {number}\n{text}\n\n@@llamarig ok" for number, text in enumerate(answers))
    asks = (asked_at_once, {"rig": of})
    found, commands = audited(of, "gpu.room", before=(asks,), **{"@@llamarig": said})
    assert len(commands) == 1
    assert commands[0].startswith("echo '@@llamarig 0'"), commands
    (finding,) = found
    assert finding.severity is Severity.ERROR
    assert "9999 more are held by our own servers" in finding.found


def test_a_measured_placement_stays_in_the_plan_file_beside_the_plans(tmp_path: Path) -> None:
    file = str(tmp_path / "plans.json")
    write_plan(file, HOST, MODEL, planned())
    measured = MeasuredPlacement(shards=("1" * 64,), release="r", flags=("--ctx-size", "4096"), left_mib=(-20,))
    write_measured(file, HOST, "other", measured)
    write_plan(file, "another box", MODEL, planned())
    plans = read_plans(file)
    assert plans.measured == {HOST: {"other": measured}}
    assert set(plans.boxes) == {HOST, "another box"}
