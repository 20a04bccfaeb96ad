"""RAM speed on dmidecode dumps of real boxes: RAM below its rating is found, RAM at its rating is not reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llamarig.checks.ram_speed import Verdict, judge
from llamarig.facts.ram import Ram, channels_used, parse

DUMPS = Path(__file__).parent / "data/dmidecode"
LABELLED: list[dict[str, Any]] = json.loads((DUMPS / "index.json").read_text())


def read(name: str) -> Ram:
    return parse((DUMPS / name).read_text().splitlines())


def test_boxes_below_their_rating_are_found_and_no_others() -> None:
    below = [item for item in LABELLED if item["label"] == "off"]
    at_rating = [item for item in LABELLED if item["label"] == "on"]
    assert (len(below), len(at_rating)) == (59, 39)
    found = [item for item in below if judge(read(item["file"])).verdict is Verdict.BELOW]
    false_positives = [item for item in at_rating if judge(read(item["file"])).verdict is not Verdict.FULL]
    assert len(found) / len(below) >= 0.97, [item["file"] for item in below if item not in found]
    assert len(false_positives) / len(at_rating) <= 0.02, [item["file"] for item in false_positives]


@pytest.mark.parametrize("item", LABELLED, ids=[item["file"] for item in LABELLED])
def test_speeds_are_as_labelled(item: dict[str, Any]) -> None:
    ram = read(item["file"])
    speed = judge(ram)
    assert (len(ram.modules), ram.slots) == (item["modules"], item["slots"])
    assert (speed.rated, speed.mts) == (item["rated_mts"], item["effective_mts"])


def test_four_ddr5_modules_at_the_guaranteed_speed() -> None:
    for name in ("012_ddr5_5200_off.txt", "060_outofspec_5200_off.txt", "094_outofspec_6000_off.txt"):
        speed = judge(read(name))
        assert speed.mts == 3600
        assert "so this is normal" in speed.limit
    two_modules = judge(read("001_ddr5_6000_off.txt"))
    assert two_modules.limit == ""


def test_a_declared_speed_overrides_the_part_number() -> None:
    assert judge(read("001_ddr5_6000_off.txt"), declared=4400).verdict is Verdict.FULL
    assert judge(read("005_ddr5_6000_on.txt"), declared=6400).verdict is Verdict.BELOW


def test_the_slower_of_mixed_kits_counts() -> None:
    speed = judge(read("special_ddr4_mixed_kits.txt"))
    assert (speed.verdict, speed.rated) == (Verdict.FULL, 2666)


def test_a_flash_chip_is_not_a_memory_module() -> None:
    ram = read("special_flash_device_as_type17.txt")
    assert (len(ram.modules), ram.slots) == (8, 12)
    assert all(module.size_mib == 8192 for module in ram.modules)


def test_soldered_memory_has_no_profile() -> None:
    speed = judge(read("special_laptop_lpddr5_soldered.txt"))
    assert speed.verdict is Verdict.SUSPECT
    assert "no profile" in speed.limit


def test_a_standard_speed_without_a_part_number_is_suspect() -> None:
    speed = judge(read("special_part_number_unknown.txt"))
    assert (speed.verdict, speed.mts, speed.rated) == (Verdict.SUSPECT, 2133, 0)


@pytest.mark.parametrize("name", ["special_ryzen_ecc_udimm.txt", "special_server_ecc_rdimm_ddr4.txt"])
def test_ecc_modules_at_their_rating(name: str) -> None:
    assert judge(read(name)).verdict is Verdict.FULL


def test_a_virtual_machine_has_no_speed() -> None:
    assert judge(read("special_vm_guest.txt")).verdict is Verdict.UNKNOWN


def test_channels() -> None:
    assert channels_used(read("002_ddr4_2666_on.txt").modules) == 2
    assert channels_used(read("special_server_ecc_rdimm_ddr4.txt").modules) == 8
    assert channels_used(read("special_flash_device_as_type17.txt").modules) in (None, 2, 6)


def test_ddr5_at_2000_is_not_half_of_4000() -> None:
    """Dump 020 with the speed that four of 8,868 dumps have."""
    text = (
        (DUMPS / "020_ddr5_5200_on.txt")
        .read_text()
        .replace("Configured Memory Speed: 5200", "Configured Memory Speed: 2000")
    )
    speed = judge(parse(text.splitlines()))
    assert (speed.verdict, speed.mts, speed.percent) == (Verdict.BELOW, 2000, 38)
