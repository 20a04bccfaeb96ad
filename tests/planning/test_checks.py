"""Every check has a box on which it finds something and one on which it does not, each from a real box's answer."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.facts.gpus import Gpus
from tasks.facts.machine import MachineState
from tasks.facts.ram import parse
from tasks.planning.checks.base import Finding, Severity
from tasks.planning.checks.box import Box, Machine, ServerProcess, Strays
from tasks.planning.checks.gpu import CardsPresent, PowerLimit
from tasks.planning.checks.llama_cpp import UnitsAsDeclared, _loopback
from tasks.planning.checks.registry import CHECKS, NoSuchCheckError, findings, known_by_name, selected
from tasks.planning.difference import Difference
from tasks.planning.gpus import GpuState
from tasks.planning.ram.modules import Ram
from tasks.spec.model_lock import LockedFile, LockedModel
from tasks.spec.rig import Rig
from tests.planning.planned_box import BY_PLAN, H200_UUID, MODEL, planned

DATA = Path(__file__).parents[1] / "facts/data"
BOX_A: dict[str, Any] = importlib.import_module("group_data.rtx4090_rtx5070ti").rig
BOX_B: dict[str, Any] = importlib.import_module("group_data.rtx4070").rig
REHEARSAL: dict[str, Any] = importlib.import_module("group_data.rehearsal").rig
H200_LINES = (DATA / "gpu/h200_two_idle.txt").read_text().splitlines()
UNIT_B = "llamarig-qwen3-coder-mxfp4.service"


def rig(data: dict[str, Any], **host: Any) -> Rig:
    return Rig.model_validate({**data, "host": {**data["host"], **host}})


def ram(name: str, *changed: tuple[str, str]) -> Ram:
    text = (DATA / "dmidecode" / name).read_text()
    for old, new in changed:
        assert old in text
        text = text.replace(old, new)
    return parse(text.splitlines())


def machine(*changed: tuple[str, str], name: str = "vm_debian12") -> Machine:
    """What this Debian 12 machine answered, with the words that were other on the box meant."""
    text = (DATA / "machine" / f"{name}.txt").read_text()
    for old, new in changed:
        assert old in text, old
        text = text.replace(old, new)
    return MachineState().process(text.splitlines())


def gpus(*changed: tuple[str, str]) -> GpuState:
    """What nvidia-smi said of the first of two H200, with the words that were other on the box meant."""
    text = "\n".join(line for line in H200_LINES if not line.startswith("1, "))
    for old, new in changed:
        assert old in text, old
        text = text.replace(old, new)
    return Gpus().process(text.splitlines())


def packages(*wished: str, rules: str = "") -> tuple[str, str]:
    """The driver's packages as dpkg tells them, each with what is wished for it, and what else holds some back."""
    lines = "".join(f"installed {each} nvidia-graphics-drivers\n" for each in wished)
    return "== held\n", f"== driver-packages\n{lines}\n== held\n{rules}\n"


def served(**values: Any) -> Strays:
    return Strays(servers=(ServerProcess(pid=7, command=("/x/llama-server",), unit=UNIT_B, **values),))


# In the passive mode of the driver the governor is the generic one, with the least clock.
GENERIC_POWERSAVE = ("== governors\n", "== governors\npowersave\n\n== scaling-drivers\nintel_cpufreq\n")
UPGRADES = ("== upgrades\nno", "== upgrades\nyes")
SWAPPINESS_0 = [
    ("== swappiness\n60", "== swappiness\n0"),
    ("== meminfo", "# /etc/sysctl.d/90-llamarig.conf\nvm.swappiness = 0\n== meminfo"),
]
TWELVE_CPUS = ("0,0,0\n1,1,0\n", "".join(f"{cpu},{cpu // 2 if cpu < 12 else cpu - 6},0\n" for cpu in range(16)))
H200 = {"gpus": [{"name": "H200", "uuid": H200_UUID, "power_limit_w": 700}]}
WORKS = ("0x0000000000000001", "0x0000000000000000")
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.159"
LARGE = LockedModel(
    repo="a/b", commit="0" * 40, shards=(LockedFile(path="m.gguf", size=40 * 1024**3, sha256="0" * 64),)
)
SMALL = LARGE.model_copy(update={"shards": (LARGE.shards[0].model_copy(update={"size": 1024**3}),)})
# The card that was there to be asked is not one of box A's.
B, A, R = rig(BOX_B), rig(BOX_A, gpus=()), rig(REHEARSAL)

# check -> (rig, box on which it finds something, box on which it does not)
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
    "memory.swappiness": (B, Box(machine=machine()), Box(machine=machine(*SWAPPINESS_0))),
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
    "llama.release": (A, Box(differences={"llama.release": [Difference("r", "built", "not there")]}), Box()),
    "llama.model-files": (A, Box(differences={"llama.model-files": [Difference("f", "a", "b")]}), Box()),
    "llama.model-lock": (A, Box(differences={"llama.model-lock": [Difference("l", "a", "b")]}), Box()),
    "llama.key-files": (A, Box(differences={"llama.key-files": [Difference("k", "a key", "is empty")]}), Box()),
    "llama.units": (A, Box(differences={"llama.units": [Difference("u", "running", "failed")]}), Box()),
    "llama.config-files": (A, Box(strays=Strays(config_files=("/etc/llama.cpp/config.ini",))), Box()),
    "llama.environment": (
        B,
        Box(strays=Strays(environment=("LLAMA_ARG_FIT in /etc/environment",))),
        # A planned model's first start is made to log its buffer sizes.
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
        Box(operations={"Toolchain | Hub client": ()}),
        Box(
            operations={"Services | Models served": (UnitsAsDeclared,)},
            differences={"llama.units": [Difference("u", "a", "b")]},
        ),
    ),
}


def look(check: str, of: Rig, box: Box) -> list[Finding]:
    return findings([item for item in CHECKS if item.id == check], of, box)


def test_no_check_is_without_its_cases() -> None:
    assert [check.id for check in CHECKS if check.id not in CASES] == []
    assert len({check.id for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize("check", CASES)
def test_finds(check: str) -> None:
    of, harmed, _ = CASES[check]
    (finding,) = look(check, of, harmed)
    assert finding.severity is not Severity.UNKNOWN
    assert finding.found
    assert finding.expected
    assert finding.remedy


@pytest.mark.parametrize("check", CASES)
def test_is_silent(check: str) -> None:
    of, _, right = CASES[check]
    assert look(check, of, right) == []


@pytest.mark.parametrize("check", CHECKS, ids=[check.id for check in CHECKS])
def test_every_check_documents_itself(check: Any) -> None:
    assert check.expects
    assert check.remedy
    assert type(check).__doc__


def test_a_box_that_tells_nothing_fails_only_for_what_was_declared() -> None:
    found = findings(CHECKS, rig(BOX_A, swappiness=None), Box())
    assert [finding for finding in found if finding.fails and finding.check != "gpu.driver"] == []
    declared = findings(CHECKS, B, Box())
    unknown = {finding.check for finding in declared if finding.fails and finding.severity is Severity.UNKNOWN}
    assert unknown == {"memory.speed", "memory.swappiness", "cpu.affinity", "cpu.threads"}


def test_four_ddr5_modules_are_a_note_and_a_lost_profile_is_none() -> None:
    (normal,) = look("memory.speed", A, Box(ram=ram("012_ddr5_5200_off.txt")))
    assert (normal.severity, normal.fails) == (Severity.NOTE, False)
    (lost,) = look("memory.speed", A, Box(ram=ram("035_ddr5_6000_off.txt")))
    assert (lost.severity, lost.fails) == (Severity.WARNING, True)
    assert "EXPO" in lost.remedy
    assert "80 %" in lost.found
    (declared,) = look("memory.speed", rig(BOX_A, memory_mts=5200), Box(ram=ram("012_ddr5_5200_off.txt")))
    assert declared.fails


def test_another_file_that_wins_over_ours_is_named() -> None:
    changed = [*SWAPPINESS_0[:1], ("== meminfo", "# /etc/sysctl.d/99-mine.conf\nvm.swappiness = 60\n== meminfo")]
    (finding,) = look("memory.swappiness", B, Box(machine=machine(*changed)))
    assert finding.remedy == "remove vm.swappiness from /etc/sysctl.d/99-mine.conf"
    assert not finding.by_deploy


@pytest.mark.parametrize(
    ("file", "by_deploy"),
    [
        ("/usr/lib/udev/rules.d/30-zram.rules", True),
        ("/etc/udev/rules.d/99-llamarig.rules", True),
        ("/etc/udev/rules.d/99-mine.rules", False),
    ],
)
def test_a_udev_rule_is_mended_by_one_that_comes_after_it(file: str, by_deploy: bool) -> None:
    """CachyOS's own sets 150 at each boot, after every sysctl.d file."""
    said = machine(*SWAPPINESS_0, ("== meminfo", f'== udev\n{file}:SYSCTL{{vm.swappiness}}="150"\n== meminfo'))
    (finding,) = look("memory.swappiness", B, Box(machine=said))
    assert finding.found == f"0 now, 150 from {file} after a reboot"
    assert finding.by_deploy is by_deploy
    assert finding.remedy == ("run deploy.py" if by_deploy else f"remove vm.swappiness from {file}")


def test_a_power_limit_nobody_declared_is_a_note() -> None:
    (finding,) = look("gpu.power", A, Box(gpus=gpus(("700.00, 700.00", "450.00, 700.00"))))
    assert not finding.fails


def test_a_card_that_would_forget_its_limit_is_told_as_the_limit_is() -> None:
    (finding,) = look("gpu.power", rig(BOX_A, **H200), Box(gpus=gpus(("Enabled, Disabled", "Disabled, Disabled"))))
    assert (finding.found, finding.by_deploy) == ("persistence mode off", True)
    both = gpus(("Enabled, Disabled", "Disabled, Disabled"), ("700.00, 700.00", "450.00, 700.00"))
    (finding,) = look("gpu.power", rig(BOX_A, **H200), Box(gpus=both))
    assert finding.found == "450 W, persistence mode off"


def test_an_operation_that_closes_a_finding_told_elsewhere_is_not_told_twice() -> None:
    declared, low = rig(BOX_A, **H200), gpus(("700.00, 700.00", "450.00, 700.00"))
    operations = {"Host | GPUs made ready": (PowerLimit, CardsPresent)}
    assert look("deploy.operation", declared, Box(gpus=low, operations=operations)) == []
    (finding,) = look("deploy.operation", declared, Box(gpus=gpus(), operations=operations))
    assert finding.about == "Host | GPUs made ready"
    # A note is about something else.
    assert [item.fails for item in look("gpu.power", A, Box(gpus=low))] == [False]
    (finding,) = look("deploy.operation", A, Box(gpus=low, operations=operations))
    assert finding.about == "Host | GPUs made ready"


def test_an_idle_cards_lower_generation_is_normal_and_a_busy_ones_is_not() -> None:
    (finding,) = look("gpu.pcie", A, Box(gpus=gpus(WORKS, (", 5, 5,", ", 3, 5,"))))
    assert finding.found == "generation 3 under load"


def test_accepted_findings_are_told_last_and_fail_nothing() -> None:
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
def test_loopback(address: str, is_loopback: bool) -> None:
    assert _loopback(address) is is_loopback


def test_room_is_not_known_without_the_gpus_memory() -> None:
    found = look("memory.room", B, Box(machine=machine(), locked=(LARGE,)))
    assert [finding.severity for finding in found] == [Severity.UNKNOWN]
    assert look("memory.room", B, Box(machine=machine(), locked=(LARGE,), gpus=gpus())) == []


def test_no_profile_is_asked_for_of_a_virtual_machine() -> None:
    (finding,) = look("memory.speed", A, Box(ram=ram("special_vm_guest.txt")))
    assert finding.severity is Severity.UNKNOWN
    assert not finding.fails


def test_an_accepted_finding_of_no_check_is_refused() -> None:
    known_by_name(["gpu.pcie", "llama.units llamarig-tiny.service"])
    with pytest.raises(NoSuchCheckError, match=r"host\.accepted names 'gpu\.pci'"):
        known_by_name(["gpu.pci"])


def test_two_modules_side_by_side_in_one_channel() -> None:
    (finding,) = look("memory.channels", A, Box(ram=ram("022_ddr4_3000_off.txt")))
    assert "ChannelA-DIMM1, ChannelA-DIMM2" in finding.found
    # A board whose two slots are one channel by name tells nothing.
    changed = ram("022_ddr4_3000_off.txt")
    assert look("memory.channels", A, Box(ram=replace(changed, slots=2))) == []


def test_intel_pstates_powersave_is_its_normal_one_without_an_energy_preference_too() -> None:
    changed = [(old, new.replace("intel_cpufreq", "intel_pstate")) for old, new in [GENERIC_POWERSAVE]]
    assert look("cpu.governor", A, Box(machine=machine(*changed))) == []
