"""Findings concern the cards that models need or that are declared, and no others."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
from llamarig.checks.base import Finding, Severity
from llamarig.checks.box import Box
from llamarig.checks.registry import findings, selected
from llamarig.declare.rig import Rig
from llamarig.engine.item import Difference
from llamarig.facts.gpus import Gpus, GpuState

from tests.checks.example_boxes import BOX_A, H200_LINES, UPGRADES, gpus, look, machine, packages, rig

BOX_D: dict[str, Any] = importlib.import_module("group_data.rx7900xt").rig
# A Ryzen's integrated graphics and an RX 7900 XT as the fact's command prints them, written from the documentation of
# the kernel and libdrm, because no such box was available.
IGPU = "0000:10:00.0|AMD Radeon Graphics|536870912|498073600|16.0 GT/s PCIe|16.0 GT/s PCIe||16|16||0|1||"
RADEON = "0000:03:00.0|{name}|21458059264|83886080|16.0 GT/s PCIe|16.0 GT/s PCIe||16|16||0|0|315000000|315000000"
BY_LIBDRM, BY_LSPCI = "AMD Radeon RX 7900 XT", "Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M]"
TWO_H200 = [{"name": "H200"}, {"name": "H200"}]


def cards(*amd: str, nvidia: str = "", bus: str = "") -> GpuState:
    """Two H200, or another output of nvidia-smi, with AMD's cards and the devices on the bus."""
    lines = ["== nvidia", nvidia] if nvidia else H200_LINES
    return Gpus().process([*lines, "== amd", *amd, "== bus", *bus.split()])


def radeon(name: str) -> str:
    return RADEON.format(name=name)


def found_on(of: Rig, state: GpuState) -> list[Finding]:
    return findings(selected(("gpu",)), of, Box(gpus=state, machine=machine()))


def by_h200(data: dict[str, Any], **host: Any) -> Rig:
    """A rig whose CUDA builds have code for an H200, unlike those of box A."""
    builds = [{**build, "architectures": ["90-real"]} for build in data["builds"]]
    return rig({**data, "builds": builds}, **host)


def test_integrated_graphics_are_no_card_of_a_cuda_box() -> None:
    assert found_on(by_h200(BOX_A, gpus=TWO_H200), cards(IGPU)) == []
    assert found_on(by_h200(BOX_A, gpus=()), cards(IGPU)) == []


def test_a_dead_nvidia_driver_is_reported_once_beside_integrated_graphics() -> None:
    state = cards(IGPU, nvidia="NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    for declared in ((), TWO_H200):
        (finding,) = found_on(by_h200(BOX_A, gpus=declared), state)
        assert finding.check == "gpu.driver"
        assert "couldn't communicate" in finding.found


@pytest.mark.parametrize("name", [BY_LIBDRM, BY_LSPCI])
def test_a_declared_radeon_is_found_by_either_of_its_names(name: str) -> None:
    of = rig(BOX_D, gpus=[{"name": "RX 7900 XT"}])
    assert found_on(of, cards(IGPU, radeon(name), nvidia="none")) == []


def test_another_radeon_than_the_declared_one_is_an_error() -> None:
    (finding,) = found_on(rig(BOX_D, gpus=[{"name": "RX 7900 XTX"}]), cards(radeon(BY_LIBDRM), nvidia="none"))
    assert (finding.check, finding.severity) == ("gpu.cards", Severity.ERROR)
    assert finding.found == "AMD Radeon RX 7900 XT (0000:03:00.0)"


def test_a_radeon_without_a_name_is_unknown() -> None:
    (finding,) = found_on(rig(BOX_D, gpus=[{"name": "RX 7900 XT"}]), cards(IGPU, radeon(""), nvidia="none"))
    assert (finding.check, finding.severity, finding.fails) == ("gpu.cards", Severity.UNKNOWN, True)


def test_a_missing_radeon_beside_integrated_graphics_is_an_error() -> None:
    (finding,) = look("gpu.cards", rig(BOX_D, gpus=[{"name": "RX 7900 XT"}]), Box(gpus=cards(IGPU, nvidia="none")))
    assert finding.severity is Severity.ERROR


def test_cards_of_two_makers_are_compared_separately() -> None:
    of = by_h200(BOX_A, gpus=[{"name": "RX 7900 XT"}, *TWO_H200])
    assert found_on(of, cards(radeon(BY_LIBDRM))) == []
    (finding,) = found_on(of, cards())
    assert (finding.check, finding.found) == ("gpu.cards", "none")


def test_the_remedy_of_a_vulkan_box_suits_the_maker_of_its_card() -> None:
    of = rig(BOX_D)
    (amd,) = found_on(of, cards(nvidia="none", bus="0x1002"))
    assert (amd.check, amd.severity) == ("gpu.driver", Severity.ERROR)
    assert "amdgpu" in amd.remedy
    assert "nvidia" not in amd.remedy.lower()
    for declared in ((), [{"name": "RX 7900 XT"}]):
        (beside,) = found_on(rig(BOX_D, gpus=declared), cards(IGPU, nvidia="none", bus="0x1002 0x1002"))
        assert beside.check == "gpu.driver"
    assert beside.found == "no AMD card that amdgpu drives"
    (nvidia,) = found_on(of, cards(nvidia="none", bus="0x10de"))
    assert "nvidia_driver" in nvidia.remedy
    (arc,) = found_on(of, cards(nvidia="none", bus="0x8086"))
    assert (arc.check, arc.severity, arc.fails) == ("gpu.driver", Severity.UNKNOWN, False)
    assert found_on(of, cards(IGPU, nvidia="none", bus="0x1002")) == []


def test_a_hip_box_needs_an_amd_card_whatever_else_it_has() -> None:
    build = {**BOX_D["builds"][0], "backend": "hip", "architectures": ["gfx1100"]}
    (finding,) = found_on(rig({**BOX_D, "builds": [build]}), cards(bus="0x10de 0x10de"))
    assert (finding.check, finding.found) == ("gpu.driver", "no AMD card on the bus")


LOST = "Unable to determine the device handle for GPU0000:00:07.0: Unknown Error"


def one_of_two(line_of_second: str) -> GpuState:
    """The first H200 answers; for the second nvidia-smi prints this line."""
    return Gpus().process([line_of_second if line.startswith("1, ") else line for line in H200_LINES])


@pytest.mark.parametrize("line_of_second", [LOST, f"1, {', '.join(['[GPU is lost]'] * 20)}"])
def test_a_lost_card_is_reported_though_another_answers(line_of_second: str) -> None:
    (finding,) = found_on(by_h200(BOX_A, gpus=()), one_of_two(line_of_second))
    assert (finding.check, finding.severity) == ("gpu.driver", Severity.ERROR)
    assert finding.found in (LOST, "1, [GPU is lost]")
    assert "reseat" in finding.remedy
    (of_declared,) = found_on(by_h200(BOX_A, gpus=TWO_H200), one_of_two(line_of_second))
    assert of_declared.check == "gpu.cards"
    assert finding.found in of_declared.found


def test_the_loss_of_the_only_card_is_no_missing_driver() -> None:
    (finding,) = found_on(by_h200(BOX_A, gpus=()), Gpus().process(["== nvidia", LOST, "== module", "580.159.04"]))
    assert LOST in finding.found
    assert "Xid" in finding.remedy


def test_other_warnings_of_nvidia_smi_are_a_note() -> None:
    both = ["== nvidia", "WARNING: infoROM is corrupted at gpu 0000:00:06.0", *H200_LINES[1:]]
    (finding,) = found_on(by_h200(BOX_A, gpus=TWO_H200), Gpus().process(both))
    assert (finding.check, finding.fails) == ("gpu.driver", False)
    assert "infoROM" in finding.found


def box_a(*names: str) -> GpuState:
    """H200s with other names."""
    state = cards()
    return replace(state, gpus=tuple(replace(card, name=name) for card, name in zip(state.gpus, names, strict=False)))


def test_slots_do_not_matter_if_cuda_orders_cards_by_speed() -> None:
    names = ("NVIDIA GeForce RTX 5070 Ti", "NVIDIA GeForce RTX 4090")
    of = rig(BOX_A)
    assert look("gpu.cards", of, Box(gpus=box_a(*names))) == []
    assert look("gpu.cards", of, Box(gpus=box_a(*reversed(names)))) == []
    (missing,) = look("gpu.cards", of, Box(gpus=box_a(names[0])))
    assert missing.expected == "RTX 4090, RTX 5070 Ti"
    (other,) = look("gpu.cards", of, Box(gpus=box_a(names[0], names[0])))
    assert other.severity is Severity.ERROR
    by_bus = [{**model, "serve": {**model["serve"], "environment": {}}} for model in BOX_A["models"]]
    (swapped,) = look("gpu.cards", rig({**BOX_A, "models": by_bus}), Box(gpus=box_a(*names)))
    assert "5070 Ti" in swapped.found.split(",")[0]


LOW = ("143771, 143156", "143771, 120000")


def test_memory_used_by_a_display_is_a_note() -> None:
    """Box A's 5070 Ti had 12,761 of 16,303 MiB free with a desktop on it, and no model running."""
    of = rig(BOX_A)
    (note,) = look("gpu.memory", of, Box(gpus=gpus(LOW, ("Enabled, Disabled", "Enabled, Enabled"))))
    assert (note.severity, note.fails) == (Severity.NOTE, False)
    assert "display" in note.remedy
    (taken,) = look("gpu.memory", of, Box(gpus=gpus(LOW)))
    assert (taken.severity, taken.fails) == (Severity.WARNING, True)


def test_memory_is_no_second_finding_if_a_model_should_run_but_does_not() -> None:
    down = {"Models served": [Difference("llamarig-qwen3-coder.service", "running", "failed")]}
    found = findings(selected(("gpu.memory", "llama.units")), rig(BOX_A), Box(gpus=gpus(LOW), differences=down))
    assert [item.check for item in found] == ["llama.units"]


def test_a_narrow_link_is_a_warning_under_load_and_a_note_when_idle() -> None:
    narrow, works = (", 16, 16,", ", 4, 16,"), ("0x0000000000000001", "0x0000000000000000")
    (note,) = look("gpu.pcie", rig(BOX_A), Box(gpus=gpus(narrow)))
    assert (note.severity, note.fails) == (Severity.NOTE, False)
    assert "while a model answers" in note.remedy
    (found,) = look("gpu.pcie", rig(BOX_A), Box(gpus=gpus(narrow, works)))
    assert (found.found, found.severity) == ("x4", Severity.WARNING)
    assert "host.accepted" in found.remedy


def test_the_first_card_depends_on_the_declared_order() -> None:
    """Box A's 5070 Ti, which drives the display, may be in the first slot, but the 4090 is the first by speed."""
    small, large = cards().gpus
    small = replace(small, name="RTX 5070 Ti", total_mib=16303, free_mib=12761, display=True)
    of, state = rig(BOX_A), GpuState((small, large))
    assert look("gpu.display", of, Box(gpus=state)) == []
    (by_speed,) = look("gpu.display", of, Box(gpus=GpuState((small, replace(large, display=True)))))
    assert "H200" in by_speed.about
    by_bus = [{**model, "serve": {**model["serve"], "environment": {}}} for model in BOX_A["models"]]
    (found,) = look("gpu.display", rig({**BOX_A, "models": by_bus}), Box(gpus=state))
    assert "5070 Ti" in found.about
    by_uuid = [{**model, "serve": {**model["serve"], "gpus": [large.uuid]}} for model in by_bus]
    assert look("gpu.display", rig({**BOX_A, "models": by_uuid}), Box(gpus=state)) == []


def test_a_card_that_no_model_uses_needs_no_code() -> None:
    new, old = cards().gpus
    state = GpuState((new, replace(old, name="GeForce GT 1030", compute_capability="6.1")), module="580.159.04")
    of = by_h200(BOX_A)
    runs, compiles = look("gpu.toolkit", of, Box(gpus=state))
    assert ("61" in compiles.found, "GT 1030" in runs.about, "serve.gpus" in runs.remedy) == (True, True, True)
    seen = [{**model, "serve": {**model["serve"], "gpus": [new.uuid], "environment": {}}} for model in BOX_A["models"]]
    assert look("gpu.toolkit", by_h200({**BOX_A, "models": seen}), Box(gpus=state)) == []


@pytest.mark.parametrize(
    ("packages_and_rules", "silent"),
    [
        (packages(), True),  # from a .run file, which the distribution's driver would overwrite
        (packages("install libcuda1", rules='Unattended-Upgrade::Package-Blacklist:: "nvidia-container";'), False),
        (packages("install libcuda1", rules='Unattended-Upgrade::Package-Blacklist:: "cuda";'), False),
        (packages("install libcuda1", rules='Unattended-Upgrade::Package-Blacklist:: "(libcuda|.*nvidia)";'), True),
        (packages("install libcuda1", rules='Unattended-Upgrade::Package-Blacklist:: "(";'), False),
        (packages("install nvidia-driver", rules="nvidia-driver-3:580.95.05-1.fc42.*"), True),
        (packages("install nvidia-driver", rules="excludepkgs=nvidia-*,kernel"), True),
        (packages("install nvidia-driver", rules='name = "nvidia-container-toolkit"'), False),
    ],
)
def test_unheld_driver_packages_are_reported(packages_and_rules: tuple[str, str], silent: bool) -> None:
    found = look("gpu.upgrades", rig(BOX_A), Box(gpus=gpus(), machine=machine(UPGRADES, packages_and_rules)))
    assert (found == []) is silent
