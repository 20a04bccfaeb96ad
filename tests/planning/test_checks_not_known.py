"""What could not be looked at is said, never guessed: it fails an audit only where the owner declared it."""

from __future__ import annotations

import pytest

from tasks.facts.strays import LlamaStrays
from tasks.planning.checks.base import Severity
from tasks.planning.checks.box import Box, Machine, Strays
from tasks.planning.ram.modules import Ram
from tests.planning.test_checks import DATA, A, B, gpus, look, machine, packages


def test_whether_a_box_upgrades_by_itself_is_not_guessed() -> None:
    unknown = machine(("== upgrades\nno", "== upgrades"), packages("install libcuda1"))
    (finding,) = look("gpu.upgrades", A, Box(gpus=gpus(), machine=unknown))
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)


@pytest.mark.parametrize("check", ["memory.bandwidth", "disk.read-speed"])
def test_a_measurement_that_was_asked_for_and_not_made_is_told(check: str) -> None:
    (finding,) = look(check, A, Box(asked=frozenset({check})))
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)
    assert "nothing could be measured" in finding.found


def test_a_bandwidth_without_a_promise_to_hold_it_against_is_told_with_its_number() -> None:
    (finding,) = look("memory.bandwidth", A, Box(copy_gb_s=30.51, ram=Ram(why_not="a container")))
    assert finding.severity is Severity.UNKNOWN
    assert "30.5 GB/s" in finding.found
    assert "a container" in finding.found


def test_a_filesystem_that_nothing_tells_is_not_known() -> None:
    (finding,) = look("disk.filesystem", A, Box(machine=Machine()))
    assert finding.severity is Severity.UNKNOWN


OF_PROCESSES = {"llama.open-port", "llama.other-servers", "llama.environment", "memory.swap", "memory.locked"}


def test_servers_that_only_root_could_see_are_not_known_to_be_none() -> None:
    said = (DATA / "strays/nspawn_debian13_without_root.txt").read_text()
    strays = LlamaStrays().process(said.splitlines())
    found = {name: look(name, B, Box(strays=strays, machine=Machine(swap_used_kib=1))) for name in OF_PROCESSES}
    assert {finding.severity for each in found.values() for finding in each} == {Severity.UNKNOWN}
    assert {len(each) for each in found.values()} == {1}
    assert all("root" in finding.found for each in found.values() for finding in each)
    # What was declared (load_mode mlock) and cannot be looked at is not clean.
    assert [name for name, each in found.items() if each[0].fails] == ["memory.locked"]
    assert look("memory.swap", B, Box(strays=strays, machine=Machine(swap_used_kib=0))) == []


def test_without_ss_nobody_knows_where_a_server_listens() -> None:
    strays = LlamaStrays().process(["== user", "0", "== ss"])
    (finding,) = look("llama.open-port", B, Box(strays=strays))
    assert finding.severity is Severity.UNKNOWN
    assert "iproute2" in finding.found
    assert look("llama.other-servers", B, Box(strays=strays)) == []


def test_memory_held_by_who_knows_whom_is_not_held_against_a_box() -> None:
    unseen = Box(gpus=gpus(("143771, 143156", "143771, 90000")), strays=Strays(unseen="only root sees it"))
    (finding,) = look("gpu.memory", A, unseen)
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)
