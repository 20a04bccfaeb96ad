"""Every check has a box on which it finds something and one on which it does not, from the output of real boxes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from llamarig.checks.base import Severity
from llamarig.checks.box import Box
from llamarig.checks.llama_cpp import _loopback
from llamarig.checks.registry import CHECKS, NoSuchCheckError, check_accepted_names, findings, selected
from llamarig.declare.rig import Rig
from llamarig.engine.item import Difference
from llamarig.facts.gpus import Gpus
from llamarig.facts.kernel_messages import GpuMessage, KernelLog
from llamarig.facts.ram import Module, Ram
from llamarig.facts.stray_settings import ServerProcess, Strays

from tests.checks.example_boxes import (
    BOX_A,
    GENERIC_POWERSAVE,
    H200,
    LARGE,
    MISMATCH,
    SMALL,
    TWELVE_CPUS,
    UNIT_B,
    UPGRADES,
    WORKS,
    A,
    B,
    R,
    gpus,
    look,
    machine,
    packages,
    ram,
    rig,
    served,
)
from tests.checks.unified_boxes import STRIX_HALO, strix
from tests.placement.planned_box import BY_PLAN, MODEL, planned

# check id -> (rig, box on which the check finds something, box on which it does not)
CASES: dict[str, tuple[Rig, Box, Box]] = {
    "memory.speed": (A, Box(ram=ram("001_ddr5_6000_off.txt")), Box(ram=ram("005_ddr5_6000_on.txt"))),
    "memory.channels": (
        A,
        Box(ram=ram("017_outofspec_2400_on.txt", ("<OUT OF SPEC>", "DDR4"))),
        Box(ram=ram("002_ddr4_2666_on.txt")),
    ),
    "memory.bandwidth": (
        B,
        Box(ram=ram("005_ddr5_6000_on.txt"), copy_gb_s=30.5),
        Box(ram=ram("005_ddr5_6000_on.txt"), copy_gb_s=61.0),
    ),
    "memory.swappiness": (B, Box(differences={"Swappiness": [Difference("vm.swappiness", "0", "60")]}), Box()),
    "memory.swap": (B, Box(strays=served(swapped_kib=2_000_000)), Box(strays=served(swapped_kib=0))),
    "memory.room": (R, Box(machine=machine(), locked=(LARGE,)), Box(machine=machine(), locked=(SMALL,))),
    "memory.huge-pages": (
        A,
        Box(machine=machine(("always [madvise] never", "always madvise [never]"))),
        Box(machine=machine()),
    ),
    "memory.oom": (
        A,
        Box(
            machine=machine(("== oom-units\n", "== oom-units\nllamarig-qwen3-coder.service\n"), name="nspawn_debian13")
        ),
        Box(machine=machine(name="nspawn_debian13")),
    ),
    "memory.locked": (B, Box(strays=served(memlock_limit_kib=8192)), Box(strays=served(locked_kib=40_000_000))),
    "memory.pinned": (
        B,
        Box(pinned_mib={UNIT_B: 37000}, strays=served(shared_kib=1_100_000)),
        Box(pinned_mib={UNIT_B: 37000}, strays=served(shared_kib=39_000_000)),
    ),
    "cpu.governor": (
        A,
        Box(machine=machine(GENERIC_POWERSAVE)),
        Box(
            machine=machine(
                ("== governors\n", "== governors\npowersave\n"), ("== energy\n", "== energy\nbalance_performance\n")
            )
        ),
    ),
    "cpu.affinity": (B, Box(machine=machine()), Box(machine=machine(TWELVE_CPUS))),
    "cpu.threads": (B, Box(machine=machine()), Box(machine=machine(TWELVE_CPUS))),
    "gpu.driver": (
        A,
        Box(gpus=Gpus().process(["== nvidia", *MISMATCH.splitlines(), "== module", "570.86"])),
        Box(gpus=gpus()),
    ),
    "gpu.cards": (
        rig(BOX_A, **H200),
        Box(gpus=gpus(("GPU-abb3f99e", "GPU-1bb3f99e"))),
        Box(gpus=gpus()),
    ),
    "gpu.pcie": (A, Box(gpus=gpus((", 16, 16,", ", 4, 16,"))), Box(gpus=gpus((", 5, 5,", ", 1, 5,")))),
    "gpu.power": (rig(BOX_A, **H200), Box(gpus=gpus(("700.00, 700.00", "450.00, 700.00"))), Box(gpus=gpus())),
    "gpu.toolkit": (
        A,
        Box(gpus=gpus(("9.0, 580.159.04", "8.9, 575.57.08"))),
        Box(gpus=gpus(("9.0, 580.159.04", "8.9, 580.159.04"))),
    ),
    "gpu.throttle": (A, Box(gpus=gpus(("0x0000000000000001", "0x0000000000000040"))), Box(gpus=gpus())),
    "gpu.gtt": (
        STRIX_HALO,
        Box(gpus=strix(gtt_mib=30000), locked=(LARGE,)),
        Box(gpus=strix(gtt_mib=98304), locked=(LARGE,)),
    ),
    "gpu.errors": (
        A,
        Box(kernel=KernelLog(readable=True, gpu=(GpuMessage("79", "0000:00:06", 1795842009),))),
        Box(kernel=KernelLog(readable=True)),
    ),
    "gpu.ecc": (A, Box(gpus=gpus(("0x0000000000000001, 0", "0x0000000000000001, 3"))), Box(gpus=gpus())),
    "gpu.memory": (A, Box(gpus=gpus(("143771, 143156", "143771, 90000"))), Box(gpus=gpus())),
    "gpu.room": (
        BY_PLAN,
        Box(gpus=gpus(("143771, 143156", "143771, 90000")), plans={MODEL: planned()}),
        Box(gpus=gpus(("143771, 143156", "143771, 100384")), plans={MODEL: planned()}),
    ),
    "gpu.display": (A, Box(gpus=gpus(("Enabled, Disabled", "Enabled, Enabled"))), Box(gpus=gpus())),
    "gpu.upgrades": (
        A,
        Box(gpus=gpus(), machine=machine(UPGRADES, packages("install libcuda1"))),
        Box(gpus=gpus(), machine=machine(UPGRADES, packages("hold libcuda1"))),
    ),
    "disk.room": (A, Box(machine=machine(("ext4 72972242944", "ext4 4294967296"))), Box(machine=machine())),
    "disk.filesystem": (A, Box(machine=machine(("ext4 ", "nfs4 "))), Box(machine=machine())),
    "disk.read-speed": (A, Box(read_mb_s=140), Box(read_mb_s=2030)),
    "llama.release": (A, Box(differences={"Releases": [Difference("r", "built", "not there")]}), Box()),
    "llama.model-files": (A, Box(differences={"Model files": [Difference("f", "a", "b")]}), Box()),
    "llama.model-lock": (A, Box(differences={"Model lock": [Difference("l", "a", "b")]}), Box()),
    "llama.key-files": (A, Box(differences={"API key files": [Difference("k", "a key", "is empty")]}), Box()),
    "front.keys": (A, Box(differences={"Keys of the front": [Difference("front key x", "a hash", "missing")]}), Box()),
    "front.service": (
        A,
        Box(differences={"Front": [Difference("llamarig_front.service", "running", "stopped")]}),
        Box(),
    ),
    "llama.declarations": (A, Box(differences={"Declarations": [Difference("m", "works", "does not")]}), Box()),
    "llama.toolkits": (
        A,
        Box(differences={"CUDA toolkits and compilers": [Difference("build cuda", "g++ 15", "g++ 16")]}),
        Box(),
    ),
    "llama.plans": (A, Box(differences={"Plans": [Difference("plan", "made for these GPUs", "stale")]}), Box()),
    "llama.units": (A, Box(differences={"Models served": [Difference("u", "running", "failed")]}), Box()),
    "llama.drop-ins": (A, Box(differences={"Unit overrides": [Difference("u", "none", "a drop-in", "revert")]}), Box()),
    "llama.jobs": (A, Box(differences={"Running jobs": [Difference("a build", "none", "runs", "stop it")]}), Box()),
    "llama.clients": (B, Box(packet_filter="ignored"), Box(packet_filter="applied")),
    "llama.systemd": (A, Box(systemd=247), Box(systemd=252)),
    "llama.unproved": (A, Box(unproved=("llamarig-m.service",)), Box()),
    "llama.config-files": (A, Box(strays=Strays(config_files=("/etc/llama.cpp/config.ini",))), Box()),
    "llama.environment": (
        B,
        Box(strays=Strays(environment=("LLAMA_ARG_FIT in /etc/environment",))),
        # A planned model's first start logs its buffer sizes.
        Box(strays=served(llama_environment=("LLAMA_ARG_LOG_VERBOSITY",))),
    ),
    "llama.other-servers": (A, Box(strays=served()), Box()),
    "llama.open-port": (
        B,
        Box(strays=served(listens=("0.0.0.0:8001",))),
        Box(
            strays=Strays(
                servers=(ServerProcess(7, ("llama-server", "--api-key-file", "/k"), UNIT_B, (), ("0.0.0.0:8001",)),)
            )
        ),
    ),
    "deploy.operation": (
        A,
        Box(differences={"Hub client": [Difference("hub client", "installed", "missing")]}),
        Box(differences={"Models served": [Difference("u", "a", "b")]}),
    ),
    "llama.gpu": (
        B,
        Box(strays=served(listens=("127.0.0.1:8001",), devices=())),
        Box(strays=served(listens=("127.0.0.1:8001",), devices=("nvidia0",))),
    ),
    "llama.prompt-cache": (
        B,
        Box(strays=served(state_mib=3462, cache_mib=2048)),
        Box(strays=served()),
    ),
}


def test_every_check_has_cases() -> None:
    assert [check.id for check in CHECKS if check.id not in CASES] == []
    assert len({check.id for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize("check", CASES)
def test_a_check_finds_the_fault(check: str) -> None:
    of, harmed, _ = CASES[check]
    (finding,) = look(check, of, harmed)
    assert finding.severity is not Severity.UNKNOWN
    assert finding.found
    assert finding.expected
    assert finding.remedy


@pytest.mark.parametrize("check", CASES)
def test_a_check_finds_nothing_on_a_sound_box(check: str) -> None:
    of, _, right = CASES[check]
    assert look(check, of, right) == []


@pytest.mark.parametrize("check", CHECKS, ids=[check.id for check in CHECKS])
def test_every_check_documents_itself(check: Any) -> None:
    assert check.expects
    assert check.remedy
    assert type(check).__doc__


def test_a_box_that_reports_nothing_fails_only_declared_checks() -> None:
    found = findings(CHECKS, rig(BOX_A, swappiness=None), Box())
    assert [finding for finding in found if finding.fails and finding.check != "gpu.driver"] == []
    declared = findings(CHECKS, B, Box())
    unknown = {finding.check for finding in declared if finding.fails and finding.severity is Severity.UNKNOWN}
    assert unknown == {"memory.speed", "cpu.affinity", "cpu.threads"}


def test_four_ddr5_modules_are_a_note_and_a_lost_profile_is_none() -> None:
    (normal,) = look("memory.speed", A, Box(ram=ram("012_ddr5_5200_off.txt")))
    assert (normal.severity, normal.fails) == (Severity.NOTE, False)
    (lost,) = look("memory.speed", A, Box(ram=ram("035_ddr5_6000_off.txt")))
    assert (lost.severity, lost.fails) == (Severity.WARNING, True)
    assert "EXPO" in lost.remedy
    assert "80 %" in lost.found
    (declared,) = look("memory.speed", rig(BOX_A, memory_mts=5200), Box(ram=ram("012_ddr5_5200_off.txt")))
    assert declared.fails


def test_ram_that_processor_and_chipset_hold_back_is_a_note_without_a_profile_to_enable() -> None:
    kit = Module(8192, "DDR4", "DIMM", speed=2133, configured=2133, part_number="F4-3200C16-8GVKB")
    locked = Box(ram=Ram((kit, kit), 2, processor="Intel(R) Core(TM) i7-6700 CPU @ 3.40GHz", board="ASRock B250M Pro4"))
    (normal,) = look("memory.speed", A, locked)
    assert (normal.severity, normal.fails) == (Severity.NOTE, False)
    allowed = "processor and chipset (i7-6700, B250) allow no more than 2133 MT/s"
    assert normal.remedy == f"{allowed}, so this is normal"
    (declared,) = look("memory.speed", rig(BOX_A, memory_mts=3200), locked)
    assert (declared.severity, declared.fails) == (Severity.WARNING, True)
    assert declared.remedy == f"{allowed}: declare memory_mts=2133"


def test_an_undeclared_power_limit_is_a_note() -> None:
    (finding,) = look("gpu.power", A, Box(gpus=gpus(("700.00, 700.00", "450.00, 700.00"))))
    assert not finding.fails


def test_a_card_without_persistence_mode_is_reported_like_a_wrong_limit() -> None:
    (finding,) = look("gpu.power", rig(BOX_A, **H200), Box(gpus=gpus(("Enabled, Disabled", "Disabled, Disabled"))))
    assert (finding.found, finding.by_deploy) == ("persistence mode off", True)
    both = gpus(("Enabled, Disabled", "Disabled, Disabled"), ("700.00, 700.00", "450.00, 700.00"))
    (finding,) = look("gpu.power", rig(BOX_A, **H200), Box(gpus=both))
    assert finding.found == "450 W, persistence mode off"


def test_an_item_is_left_out_if_another_check_reports_the_same_cause() -> None:
    checks = selected(("gpu.power", "deploy.operation"))
    declared, low = rig(BOX_A, **H200), gpus(("700.00, 700.00", "450.00, 700.00"))
    setup = {"GPU setup": [Difference("GPU unit", "as rendered", "missing")]}
    found = findings(checks, declared, Box(gpus=low, differences=setup))
    assert [finding.check for finding in found] == ["gpu.power"]
    (finding,) = findings(checks, declared, Box(gpus=gpus(), differences=setup))
    assert (finding.check, finding.about) == ("deploy.operation", "GPU setup")
    # A note reports something else.
    found = findings(checks, A, Box(gpus=low, differences=setup))
    assert [(finding.check, finding.fails) for finding in found] == [("deploy.operation", True), ("gpu.power", False)]


def test_a_declared_value_that_cannot_be_read_fails() -> None:
    unknown = Difference("vm.swappiness", "0 (host.swappiness)", "/proc cannot be read", is_unknown=True)
    (finding,) = look("memory.swappiness", B, Box(differences={"Swappiness": [unknown]}))
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, True)
    assert finding.found == "not known: /proc cannot be read"


def test_only_a_busy_card_needs_its_full_pcie_generation() -> None:
    (finding,) = look("gpu.pcie", A, Box(gpus=gpus(WORKS, (", 5, 5,", ", 3, 5,"))))
    assert finding.found == "generation 3 under load"


def test_accepted_findings_come_last_and_fail_nothing() -> None:
    box = Box(gpus=gpus((", 16, 16,", ", 4, 16,"), WORKS), machine=machine(("ext4 ", "nfs4 ")))
    accepting = rig(BOX_A, gpus=(), swappiness=None, accepted={"gpu.pcie": "the second slot is wired x4"})
    found = findings(selected(("gpu", "disk"), ("gpu.toolkit",)), accepting, box)
    assert [(finding.check, finding.fails, finding.accepted) for finding in found] == [
        ("disk.filesystem", True, ""),
        ("gpu.pcie", False, "the second slot is wired x4"),
    ]


def test_only_and_skip_take_ids_and_first_words() -> None:
    assert [check.id for check in selected(("disk",), ("disk.room",))] == ["disk.filesystem", "disk.read-speed"]
    with pytest.raises(NoSuchCheckError, match="no check 'dsk'"):
        selected(("dsk",))


@pytest.mark.parametrize(
    ("address", "is_loopback"),
    [("127.0.0.1:1", True), ("[::1]:1", True), ("0.0.0.0:1", False), ("*:1", False), ("[::]:1", False)],
)
def test_loopback_addresses_are_recognised(address: str, is_loopback: bool) -> None:
    assert _loopback(address) is is_loopback


def test_room_is_unknown_without_the_memory_of_the_gpus() -> None:
    found = look("memory.room", B, Box(machine=machine(), locked=(LARGE,)))
    assert [finding.severity for finding in found] == [Severity.UNKNOWN]
    assert look("memory.room", B, Box(machine=machine(), locked=(LARGE,), gpus=gpus())) == []


def test_a_virtual_machine_needs_no_memory_profile() -> None:
    (finding,) = look("memory.speed", A, Box(ram=ram("special_vm_guest.txt")))
    assert finding.severity is Severity.UNKNOWN
    assert not finding.fails


def test_an_accepted_finding_of_an_unknown_check_is_refused() -> None:
    check_accepted_names(["gpu.pcie", "llama.units llamarig-tiny.service"])
    with pytest.raises(NoSuchCheckError, match=r"host\.accepted names 'gpu\.pci'"):
        check_accepted_names(["gpu.pci"])


def test_two_modules_side_by_side_in_one_channel() -> None:
    (finding,) = look("memory.channels", A, Box(ram=ram("022_ddr4_3000_off.txt")))
    assert "ChannelA-DIMM1, ChannelA-DIMM2" in finding.found
    # A board that names both slots as one channel does not tell where modules are.
    changed = ram("022_ddr4_3000_off.txt")
    assert look("memory.channels", A, Box(ram=replace(changed, slots=2))) == []


def test_powersave_of_intel_pstate_is_normal_without_an_energy_preference() -> None:
    changed = [(old, new.replace("intel_cpufreq", "intel_pstate")) for old, new in [GENERIC_POWERSAVE]]
    assert look("cpu.governor", A, Box(machine=machine(*changed))) == []
