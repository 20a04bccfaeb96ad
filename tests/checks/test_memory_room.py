"""RAM for a model that is not running: available RAM, RAM that would be freed for it, and other processes' RAM.

The box is the machine with an H100 of tests/facts/data/answers: 108.9 of 125.9 GiB available; 10.0 GiB held by a
process that stands for a model's unit here (8 of them pinned by CUDA), 3 GiB locked by one other process, 3 GiB held by
another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from llamarig.checks.base import Finding, Severity
from llamarig.checks.box import Box
from llamarig.declare.model import Model
from llamarig.declare.placement import CpuOnly
from llamarig.declare.rig import Rig
from llamarig.facts.ram_users import RamHeld, RamUser, RamUsers
from llamarig.records.plan_file import RamBudget

from tests.checks.example_boxes import DATA, LARGE, UNIT_B, look, machine
from tests.placement.planned_box import BY_PLAN, MODEL, planned

H100 = (DATA / "answers/RamHeld.vm_h100.txt").read_text()
USERS = RamHeld().process(H100.splitlines())
MACHINE = machine(
    ("MemTotal:       24684084 kB", "MemTotal:       131981020 kB"),
    ("MemAvailable:   22446752 kB", "MemAvailable:   114235036 kB"),
)
OTHER = "other"
HOLDERS = "the largest holders of the rest: python3 (pid 414) with 3.0, python3 (pid 415) with 3.0"


def rig(**serve: Any) -> Rig:
    """The planned model, and another one that excludes it by default."""
    first = BY_PLAN.models[0]
    values = {"default": False, **serve}
    other = first.model_copy(update={"name": OTHER, "serve": first.serve.model_copy(update=values)})
    return BY_PLAN.model_copy(update={"models": (first, other)})


def needing(start_gib: float, later_gib: float = 0) -> RamBudget:
    return RamBudget(
        weights_mib=round(start_gib * 1024) - 500,
        buffers_mib=500,
        cache_mib=round(later_gib * 1024),
        checkpoints_mib=0,
        reserve_mib=2048,
        available_mib=0,
    )


def found(of: Rig, name: str, ram: RamBudget, users: RamUsers = USERS) -> list[Finding]:
    box = Box(machine=MACHINE, ram_users=users, plans={name: planned(ram=ram)})
    return look("memory.room", of, box)


def test_memory_of_units_and_other_processes_is_parsed() -> None:
    assert USERS.is_known
    assert USERS.units.keys() == {UNIT_B}
    unit = USERS.units[UNIT_B]
    assert unit is not None
    # Pinned buffers are charged to their process, as shared memory.
    assert unit.own_kib > 10 * 1024**2
    (locking,) = [user for user in USERS.others if user.locked_kib > 1024**2]
    assert locking.own_kib < 10 * 1024
    assert locking.gives_back_kib >= 3 * 1024**2
    assert (MACHINE.total_kib, MACHINE.available_kib) == (131981020, 114235036)


def test_a_running_model_needs_no_available_ram() -> None:
    assert found(rig(), MODEL, needing(121)) == []
    (finding,) = found(rig(), MODEL, needing(121), replace(USERS, units={}))
    assert finding.severity is Severity.WARNING
    assert finding.about == MODEL


@pytest.mark.parametrize(("start", "fits"), [(119.3, True), (119.6, False)])
def test_ram_of_the_unit_it_would_replace_counts_as_available(start: float, fits: bool) -> None:
    items = found(rig(), OTHER, needing(start))
    assert bool(items) is not fits
    for finding in items:
        assert (finding.severity, finding.fails) == (Severity.WARNING, True)
        assert finding.found.startswith("108.9 GiB of RAM available now, 10.5 GiB more once ")
        assert f"{UNIT_B} is stopped for it" in finding.found
        assert finding.found.endswith(HOLDERS)
        assert finding.expected.startswith("119.6 GiB by its plan (MiB: weights ")
        assert finding.expected.endswith("buffers 500), to start")
        assert f"--data update={OTHER}" in finding.remedy


def test_ram_of_a_coexisting_unit_does_not_count_as_available() -> None:
    of = rig(coexists=True)
    assert found(of, OTHER, needing(108.5)) == []
    (finding,) = found(of, OTHER, needing(112))
    assert "once" not in finding.found
    assert f"the largest holders of the rest: {UNIT_B} with 10.0, python3 (pid 414)" in finding.found


def test_too_little_ram_for_caches_fails_no_audit() -> None:
    (finding,) = found(rig(), OTHER, needing(100, later_gib=22))
    assert (finding.severity, finding.fails) == (Severity.NOTE, False)
    assert finding.expected.startswith("122.0 GiB by its plan")
    assert finding.expected.endswith("prompt cache 22528, checkpoints 0), with full caches")


def test_a_model_larger_than_the_ram_is_one_finding() -> None:
    (finding,) = found(rig(), OTHER, needing(125))
    assert finding.found == "125.9 GiB of RAM"


def test_hidden_processes_are_unknown() -> None:
    """As with hidepid: the unit is known to run, but its process is hidden."""
    assert found(rig(), OTHER, needing(121), RamUsers()) == []
    hidden = RamHeld().process(H100.replace("\n413 ", "\nx ").splitlines())
    assert hidden.units == {UNIT_B: None}
    (finding,) = found(rig(), OTHER, needing(121), hidden)
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)
    assert found(rig(), OTHER, needing(100), hidden) == []


def test_memory_that_a_driver_does_not_charge_counts_as_given_back() -> None:
    users = replace(USERS, unclaimed_kib=4 * 1024**2)
    assert found(rig(), OTHER, needing(119.6), users) == []
    assert found(rig(coexists=True), OTHER, needing(112), users) != []


def test_without_a_plan_the_lower_bound_is_needed() -> None:
    first = BY_PLAN.models[0]
    in_ram = first.serve.model_copy(update={"placement": CpuOnly(), "cache_ram_mib": 0})
    models: tuple[Model, ...] = (first.model_copy(update={"serve": in_ram}),)
    of = BY_PLAN.model_copy(update={"models": models})
    holder = RamUser(4711, "qemu-system-x86", own_kib=90 * 1024**2)
    low = replace(MACHINE, available_kib=24 * 1024**2)
    box = Box(machine=low, locked=(LARGE,), ram_users=RamUsers(is_known=True, others=(holder,)))
    (finding,) = look("memory.room", of, box)
    assert finding.severity is Severity.WARNING
    assert finding.found.endswith("holders of the rest: qemu-system-x86 (pid 4711) with 90.0")
    assert "about 41.0 GiB at least, estimated without a plan (40.0 GiB of weights), to start" in finding.expected
    assert look("memory.room", of, replace(box, machine=MACHINE)) == []
    assert look("memory.room", of, replace(box, ram_users=RamUsers(is_known=True, units={UNIT_B: holder}))) == []


def test_an_invisible_holder_is_not_named() -> None:
    (finding,) = found(rig(), OTHER, needing(121), RamUsers(is_known=True))
    assert finding.found.endswith("no visible program holds much of the rest")
