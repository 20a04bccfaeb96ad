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
from tasks.planning.plans.ram import ram_budget
from tasks.planning.ram.modules import Ram
from tasks.spec.model_lock import LockedFile, LockedModel
from tasks.spec.placement import Auto, Layers
from tasks.spec.plan_file import Belongs, DeviceMemory, Plan, PlannedDevice, Proposal
from tasks.spec.rig import Rig

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


def served(**values: Any) -> Strays:
    return Strays(servers=(ServerProcess(pid=7, command=("/x/llama-server",), unit=UNIT_B, **values),))


def planned(**changes: Any) -> Plan:
    """As a plan for the first of two H200, whose names and UUID are its driver's; 100000 MiB of a model predicted."""
    card = PlannedDevice(name="CUDA0", description="NVIDIA H200", total_mib=143771, free_mib=142600, uuid=H200_UUID)
    on_card = DeviceMemory(name="CUDA0", model_mib=90000, context_mib=8000, compute_mib=2000)
    in_ram = DeviceMemory(name="Host", model_mib=4000, context_mib=0, compute_mib=500)
    others = tuple(changes.pop("others_mib", ()))
    uuid = changes.pop("uuid", card.uuid)
    return Plan(
        belongs=Belongs(
            header="a" * 64,
            devices=(card.model_copy(update={"uuid": uuid}),),
            margins_mib=(384,),
            others_mib=others,
            flags=(),
            release="r",
        ),
        placement=Layers(gpu=(40,), split=(49,)),
        context=65536,
        ubatch=512,
        cache_type_k="f16",
        cache_type_v="f16",
        memory=(on_card, in_ram),
        ram=ram_budget(B.models[0].serve, in_ram, 0, 60000),
    ).model_copy(update=changes)


def room(free: int, **values: Any) -> list[Finding]:
    """What the plan of a model finds on the H200 with so many MiB free."""
    plan = values.pop("plan", planned())
    card = gpus(("143771, 143156", f"143771, {free}"))
    return look("gpu.room", BY_PLAN, Box(gpus=card, plans={MODEL: plan}, **values))


SWAPPINESS_0 = [
    ("== swappiness\n60", "== swappiness\n0"),
    ("== meminfo", "# /etc/sysctl.d/90-llamarig.conf\nvm.swappiness = 0\n== meminfo"),
]
TWELVE_CPUS = ("0,0,0\n1,1,0\n", "".join(f"{cpu},{cpu // 2 if cpu < 12 else cpu - 6},0\n" for cpu in range(16)))
H200_UUID = "GPU-abb3f99e-7dc8-fb04-7f9d-6c963a49df37"
H200 = {"gpus": [{"name": "H200", "uuid": H200_UUID, "power_limit_w": 700}]}
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.159"
LARGE = LockedModel(
    repo="a/b", commit="0" * 40, shards=(LockedFile(path="m.gguf", size=40 * 1024**3, sha256="0" * 64),)
)
SMALL = LARGE.model_copy(update={"shards": (LARGE.shards[0].model_copy(update={"size": 1024**3}),)})
B, A, R = rig(BOX_B), rig(BOX_A), rig(REHEARSAL)
MODEL = B.models[0].name
BY_PLAN = B.model_copy(
    update={
        "models": (
            B.models[0].model_copy(update={"serve": B.models[0].serve.model_copy(update={"placement": Auto()})}),
        )
    }
)

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
    "cpu.governor": (
        A,
        Box(machine=machine(("== governors\n", "== governors\npowersave\n"))),
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
        Box(gpus=gpus(), machine=machine(("== upgrades\nno", "== upgrades\nyes"))),
        Box(
            gpus=gpus(),
            machine=machine(("== upgrades\nno", "== upgrades\nyes"), ("== held\n", "== held\nnvidia-driver\n")),
        ),
    ),
    "disk.room": (A, Box(machine=machine(("ext4 72972242944", "ext4 4294967296"))), Box(machine=machine())),
    "disk.filesystem": (A, Box(machine=machine(("ext4 ", "nfs4 "))), Box(machine=machine())),
    "disk.read-speed": (A, Box(read_mb_s=140), Box(read_mb_s=2030)),
    "llama.release": (A, Box(differences={"llama.release": [Difference("r", "built", "not there")]}), Box()),
    "llama.model-files": (A, Box(differences={"llama.model-files": [Difference("f", "a", "b")]}), Box()),
    "llama.model-lock": (A, Box(differences={"llama.model-lock": [Difference("l", "a", "b")]}), Box()),
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
    assert unknown == {"memory.speed", "memory.swappiness", "cpu.affinity"}


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


def test_a_power_limit_nobody_declared_is_a_note() -> None:
    (finding,) = look("gpu.power", A, Box(gpus=gpus(("700.00, 700.00", "450.00, 700.00"))))
    assert not finding.fails


def test_a_card_that_would_forget_its_limit_is_told_as_the_limit_is() -> None:
    (finding,) = look("gpu.power", rig(BOX_A, **H200), Box(gpus=gpus(("Enabled, Disabled", "Disabled, Disabled"))))
    assert (finding.found, finding.by_deploy) == ("off", True)


def test_an_operation_that_closes_a_finding_told_elsewhere_is_not_told_twice() -> None:
    declared, low = rig(BOX_A, **H200), gpus(("700.00, 700.00", "450.00, 700.00"))
    operations = {"Host | GPUs made ready": (PowerLimit, CardsPresent)}
    assert look("deploy.operation", declared, Box(gpus=low, operations=operations)) == []
    (finding,) = look("deploy.operation", declared, Box(gpus=gpus(), operations=operations))
    assert finding.about == "Host | GPUs made ready"


def test_an_idle_cards_lower_generation_is_normal_and_a_busy_ones_is_not() -> None:
    busy = [("0x0000000000000001", "0x0000000000000000"), (", 5, 5,", ", 3, 5,")]
    (finding,) = look("gpu.pcie", A, Box(gpus=gpus(*busy)))
    assert finding.found == "generation 3 under load"


def test_accepted_findings_are_told_last_and_fail_nothing() -> None:
    box = Box(gpus=gpus((", 16, 16,", ", 4, 16,")), machine=machine(("ext4 ", "nfs4 ")))
    accepting = rig(BOX_A, swappiness=None, accepted={"gpu.pcie": "the second slot is wired x4"})
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


def test_room_by_a_plan_is_its_own_budget_and_says_so() -> None:
    """The lower bound of the same model would be silent: all of its weights could be on the card."""
    box = Box(machine=machine(), locked=(LARGE,), gpus=gpus())
    assert look("memory.room", BY_PLAN, box) == []
    of_plan = planned()
    assert look("memory.room", BY_PLAN, replace(box, plans={MODEL: of_plan})) == []
    more = of_plan.ram.model_copy(update={"checkpoints_mib": 30000})
    (finding,) = look("memory.room", BY_PLAN, replace(box, plans={MODEL: planned(ram=more)}))
    assert "by its plan (MiB: weights 4000, buffers 500, prompt cache" in finding.expected
    assert "checkpoints 30000" in finding.expected
    assert f"--data update={MODEL}" in finding.remedy
    (bound,) = look("memory.room", R, Box(machine=machine(), locked=(LARGE,)))
    assert "at the least, reckoned without a plan" in bound.expected


@pytest.mark.parametrize(
    ("free", "others", "severity"),
    [
        (100384, (), None),
        (100383, (), Severity.WARNING),
        (100000, (), Severity.WARNING),
        (99999, (), Severity.ERROR),
        (101284, (900,), None),
        (101283, (900,), Severity.WARNING),
        (100899, (900,), Severity.ERROR),
    ],
)
def test_a_lost_margin_is_a_warning_and_a_model_that_would_not_start_an_error(
    free: int, others: tuple[int, ...], severity: Severity | None
) -> None:
    found = room(free, plan=planned(others_mib=others))
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
    for finding in found:
        assert finding.about == f"{MODEL} CUDA0"
        assert f"{free} of 143771 MiB of NVIDIA H200 (00000000:00:06.0)" in finding.found
        assert f"{100384 + sum(others)} MiB: 100000 predicted" in finding.expected
        assert "nvidia-smi" in finding.remedy
        assert "margin_mib" in finding.remedy
        assert f"tasks/plan.py --data update={MODEL}" in finding.remedy


def test_what_our_own_servers_hold_is_room_for_a_plan() -> None:
    assert room(40000, vram_held_mib={H200_UUID: 100000}, strays=served()) == []
    (finding,) = room(30000, vram_held_mib={H200_UUID: 60000}, strays=served())
    assert finding.severity is Severity.ERROR
    assert "30000 of 143771" in finding.found
    assert "60000 more are held by our own servers" in finding.found


def test_a_driver_that_does_not_tell_what_our_servers_hold_is_not_guessed_at() -> None:
    (finding,) = room(40000, strays=served())
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)
    assert room(110000, strays=served()) == []


def test_a_plan_without_uuids_finds_its_card_by_name() -> None:
    (finding,) = room(90000, plan=planned(uuid=""))
    assert finding.severity is Severity.ERROR
    belongs = planned(uuid="").belongs
    other = belongs.devices[0].model_copy(update={"description": "AMD Radeon RX 7900 XTX"})
    (unknown,) = room(90000, plan=planned(belongs=belongs.model_copy(update={"devices": (other,)})))
    assert unknown.severity is Severity.UNKNOWN
    assert "AMD Radeon RX 7900 XTX" in unknown.found


def test_a_planned_card_that_is_not_there_is_told_by_the_cards_alone() -> None:
    assert room(90000, plan=planned(uuid=H200_UUID.replace("abb3f99e", "1bb3f99e"))) == []


def test_a_step_down_has_no_prediction_to_be_held_against() -> None:
    step = Proposal(placement=Layers(gpu=(39,), split=(49,)), reason="CUDA0 lacks 300 MiB")
    (finding,) = room(90000, plan=planned(proposals=(step,)))
    assert (finding.severity, finding.fails) == (Severity.UNKNOWN, False)


def test_memory_taken_from_a_planned_card_is_one_finding() -> None:
    """And none where the plan has its room all the same."""
    low = gpus(("143771, 143156", "143771, 90000"))
    assert [item.check for item in findings(selected(("gpu.memory", "gpu.room")), BY_PLAN, Box(gpus=low))] == [
        "gpu.memory"
    ]
    plans = {MODEL: planned()}
    found = findings(selected(("gpu.memory", "gpu.room")), BY_PLAN, Box(gpus=low, plans=plans))
    assert [item.check for item in found] == ["gpu.room"]


def test_a_plan_file_that_cannot_be_read_is_told_by_the_check_it_was_given_to() -> None:
    box = Box(machine=machine(), unread={"gpu.room": "plans.json is no plan file"})
    (finding,) = findings(selected(("gpu.room", "memory.room")), BY_PLAN, box)
    assert (finding.check, finding.severity, finding.fails) == ("gpu.room", Severity.UNKNOWN, True)
    assert "plans.json is no plan file" in finding.found


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
