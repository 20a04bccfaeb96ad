"""Values that cannot be read are reported as unknown, and fail an audit only if they are declared."""

from __future__ import annotations

import pytest
from llamarig.checks.base import Severity
from llamarig.checks.box import Box
from llamarig.facts.machine import Machine
from llamarig.facts.ram import Ram
from llamarig.facts.stray_settings import Strays, StraySettings

from tests.checks.example_boxes import DATA, A, B, gpus, look, machine, packages


def test_unknown_automatic_upgrades_are_not_guessed() -> None:
    unknown = machine(("== upgrades\nno", "== upgrades"), packages("install libcuda1"))
    (finding,) = look("gpu.upgrades", A, Box(gpus=gpus(), machine=unknown))
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)


@pytest.mark.parametrize("check", ["memory.bandwidth", "disk.read-speed"])
def test_a_requested_measurement_that_failed_is_unknown(check: str) -> None:
    (finding,) = look(check, A, Box(requested=frozenset({check})))
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)
    assert "could not be measured" in finding.found


def test_a_bandwidth_without_a_rated_speed_is_unknown_with_its_number() -> None:
    (finding,) = look("memory.bandwidth", A, Box(copy_gb_s=30.51, ram=Ram(why_not="a container")))
    assert finding.severity is Severity.UNKNOWN
    assert "30.5 GB/s" in finding.found
    assert "a container" in finding.found


def test_an_unreported_filesystem_is_unknown() -> None:
    (finding,) = look("disk.filesystem", A, Box(machine=Machine()))
    assert finding.severity is Severity.UNKNOWN


OF_PROCESSES = {"llama.open-port", "llama.other-servers", "llama.environment", "memory.swap", "memory.locked"}


def test_servers_visible_only_to_root_are_unknown() -> None:
    output = (DATA / "strays/nspawn_debian13_without_root.txt").read_text()
    strays = StraySettings().process(output.splitlines())
    found = {name: look(name, B, Box(strays=strays, machine=Machine(swap_used_kib=1))) for name in OF_PROCESSES}
    assert {finding.severity for each in found.values() for finding in each} == {Severity.UNKNOWN}
    assert {len(each) for each in found.values()} == {1}
    assert all("root" in finding.found for each in found.values() for finding in each)
    # load_mode mlock is declared, so an audit that cannot check it fails.
    assert [name for name, each in found.items() if each[0].fails] == ["memory.locked"]
    assert look("memory.swap", B, Box(strays=strays, machine=Machine(swap_used_kib=0))) == []


def test_without_ss_listening_addresses_are_unknown() -> None:
    strays = StraySettings().process(["== user", "0", "== ss"])
    (finding,) = look("llama.open-port", B, Box(strays=strays))
    assert finding.severity is Severity.UNKNOWN
    assert "iproute2" in finding.found
    assert look("llama.other-servers", B, Box(strays=strays)) == []


def test_memory_held_by_invisible_processes_is_unknown() -> None:
    unseen = Box(gpus=gpus(("143771, 143156", "143771, 90000")), strays=Strays(unseen="only root sees it"))
    (finding,) = look("gpu.memory", A, unseen)
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)
