"""AMD's cards, asked by the fact's own command of a tree laid out as sysfs is."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tasks.facts.gpus import Gpus
from tasks.planning.gpus import GpuState

RADEON = {
    "vendor": "0x1002",
    "device": "0x744c",
    "revision": "0xcc",
    "class": "0x030000",
    "mem_info_vram_total": "21458059264",
    "mem_info_vram_used": "1073741824",
    "current_link_speed": "16.0 GT/s PCIe",
    "max_link_speed": "16.0 GT/s PCIe",
    "current_link_width": "16",
    "max_link_width": "16",
    "hwmon/hwmon3/power1_cap": "300000000",
    "hwmon/hwmon3/power1_cap_default": "315000000",
}


class Sysfs:
    """A stand-in for /sys, since no machine here has such a card; the command that reads it is the fact's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("class/drm", "bus/pci/devices"):
            (root / "sys" / name).mkdir(parents=True)

    def device(self, path: str, files: dict[str, str]) -> Path:
        at = self.root / "sys/devices/pci0000:00" / path
        for name, text in files.items():
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            (at / name).write_text(f"{text}\n")
        (self.root / "sys/bus/pci/devices" / at.name).symlink_to(at)
        return at

    def card(self, number: int, device: Path) -> None:
        at = self.root / f"sys/class/drm/card{number}"
        at.mkdir()
        (at / "device").symlink_to(device)

    def asked(self, amdgpu_ids: str = "", path: str = "/usr/bin:/bin") -> GpuState:
        (self.root / "amdgpu.ids").write_text(amdgpu_ids)
        command = Gpus().command().replace("/usr/share/libdrm/", f"{self.root}/").replace("/sys/", f"{self.root}/sys/")
        said = subprocess.run(["sh", "-c", command], env={"PATH": path}, capture_output=True, text=True, check=True)
        return Gpus().process(said.stdout.splitlines())


def test_a_card_is_named_by_libdrm_and_no_other_makers_is_taken_for_one(tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path)
    sysfs.card(0, sysfs.device("0000:00:02.0", {"vendor": "0x8086", "class": "0x030000"}))
    sysfs.card(1, sysfs.device("0000:00:01.0/0000:03:00.0", RADEON))
    sysfs.device("0000:00:1f.0", {"vendor": "0x8086", "class": "0x060100"})
    ids = "744C,\tC8,\tAMD Radeon RX 7900 XTX\n744C,\tCC,\tAMD Radeon RX 7900 XT\n744D,\tCC,\tanother\n"
    state = sysfs.asked(ids)
    (card,) = state.amd
    assert (card.name, card.bus_id) == ("AMD Radeon RX 7900 XT", "0000:03:00.0")
    assert (card.total_mib, card.free_mib) == (20464, 19440)
    assert (card.power_limit_w, card.power_default_w) == (300, 315)
    assert sorted(state.on_bus) == ["0x1002", "0x8086"]
    assert sysfs.asked().amd[0].name == "AMD GPU"
    (tmp_path / "sys/devices/pci0000:00/0000:00:01.0/0000:03:00.0/product_name").write_text("Instinct MI210\n")
    assert sysfs.asked(ids).amd[0].name == "Instinct MI210"


ROOT_PORT = {"vendor": "0x1022", "class": "0x060400", "max_link_speed": "8.0 GT/s PCIe", "max_link_width": "16"}
SWITCH = {"vendor": "0x1002", "class": "0x060400", "max_link_speed": "16.0 GT/s PCIe", "max_link_width": "16"}
UPSTREAM = {**SWITCH, "current_link_speed": "8.0 GT/s PCIe", "current_link_width": "4"}
DOWNSTREAM = {**SWITCH, "current_link_speed": "16.0 GT/s PCIe", "current_link_width": "16"}


def test_the_link_is_the_slots_and_not_the_one_inside_the_card(tmp_path: Path) -> None:
    """As on an RX 6800 in a board of generation 3 (github.com/Umio-Yasuno/amdgpu_top issue 33), but in a slot of x4."""
    sysfs, path = Sysfs(tmp_path), "0000:00:03.1"
    sysfs.device(path, ROOT_PORT)
    for name, port in (("0000:01:00.0", UPSTREAM), ("0000:02:00.0", DOWNSTREAM)):
        path = f"{path}/{name}"
        sysfs.device(path, port)
    device = sysfs.device(f"{path}/0000:03:00.0", {**RADEON, "gpu_busy_percent": "99"})
    sysfs.card(0, device)
    (card,) = sysfs.asked().amd
    assert (card.pcie_generation, card.pcie_generation_max) == (3, 3)
    assert (card.pcie_width, card.pcie_width_max) == (4, 16)
    assert (card.busy, card.display) == (True, False)
    (device / "gpu_busy_percent").write_text("3\n")
    for name, word in (("DP-1", "enabled"), ("DP-2", "disabled")):
        connector = tmp_path / f"sys/class/drm/card0-{name}"
        connector.mkdir()
        (connector / "enabled").write_text(f"{word}\n")
    (card,) = sysfs.asked().amd
    assert (card.busy, card.display) == (False, True)


def test_a_port_that_tells_nothing_leaves_the_cards_own_most(tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path)
    sysfs.card(0, sysfs.device("0000:00:05.0", RADEON))
    (card,) = sysfs.asked().amd
    assert (card.pcie_generation_max, card.pcie_width, card.pcie_width_max) == (4, 16, 16)


def test_a_card_newer_than_libdrms_list_has_its_chips_name_from_lspci(tmp_path: Path) -> None:
    """A stand-in for lspci, which sees this machine's bus alone; its line is as lspci(8) describes -mm."""
    sysfs = Sysfs(tmp_path)
    sysfs.card(0, sysfs.device("0000:00:01.0/0000:03:00.0", RADEON))
    (tmp_path / "lspci").write_text(
        """#!/bin/sh
test "$*" = "-mm -s 0000:03:00.0" && cat <<'END'
03:00.0 "VGA compatible controller" "Advanced Micro Devices, Inc. [AMD/ATI]" "Navi 31 [Radeon RX 7900 XT]" -rcc "" ""
END
"""
    )
    (tmp_path / "lspci").chmod(0o755)
    (card,) = sysfs.asked("744C,\tC8,\tAMD Radeon RX 7900 XTX\n", f"{tmp_path}:/usr/bin:/bin").amd
    assert card.name == "Navi 31 [Radeon RX 7900 XT]"
