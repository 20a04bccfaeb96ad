"""AMD GPUs, read by the fact's own command from a directory tree like sysfs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from llamarig.facts.gpus import Gpus, GpuState

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
    """A stand-in for /sys, because no machine with an AMD GPU was available."""

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

    def read(self, amdgpu_ids: str = "", path: str = "/usr/bin:/bin") -> GpuState:
        (self.root / "amdgpu.ids").write_text(amdgpu_ids)
        command = Gpus().command().replace("/usr/share/libdrm/", f"{self.root}/").replace("/sys/", f"{self.root}/sys/")
        done = subprocess.run(["sh", "-c", command], env={"PATH": path}, capture_output=True, text=True, check=True)
        return Gpus().process(done.stdout.splitlines())


def test_name_by_libdrm_or_kernel_and_no_gpus_of_other_vendors(tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path)
    sysfs.card(0, sysfs.device("0000:00:02.0", {"vendor": "0x8086", "class": "0x030000"}))
    sysfs.card(1, sysfs.device("0000:00:01.0/0000:03:00.0", RADEON))
    sysfs.device("0000:00:1f.0", {"vendor": "0x8086", "class": "0x060100"})
    ids = "744C,\tC8,\tAMD Radeon RX 7900 XTX\n744C,\tCC,\tAMD Radeon RX 7900 XT\n744D,\tCC,\tanother\n"
    state = sysfs.read(ids)
    (card,) = state.amd
    assert (card.name, card.bus_id) == ("AMD Radeon RX 7900 XT", "0000:03:00.0")
    assert (card.total_mib, card.free_mib) == (20464, 19440)
    assert (card.power_limit_w, card.power_default_w) == (300, 315)
    assert sorted(state.on_bus) == ["0x1002", "0x8086"]
    assert sysfs.read().amd[0].name == "AMD GPU"
    (tmp_path / "sys/devices/pci0000:00/0000:00:01.0/0000:03:00.0/product_name").write_text("Instinct MI210\n")
    assert sysfs.read(ids).amd[0].name == "Instinct MI210"


ROOT_PORT = {"vendor": "0x1022", "class": "0x060400", "max_link_speed": "8.0 GT/s PCIe", "max_link_width": "16"}
SWITCH = {"vendor": "0x1002", "class": "0x060400", "max_link_speed": "16.0 GT/s PCIe", "max_link_width": "16"}
UPSTREAM = {**SWITCH, "current_link_speed": "8.0 GT/s PCIe", "current_link_width": "4"}
DOWNSTREAM = {**SWITCH, "current_link_speed": "16.0 GT/s PCIe", "current_link_width": "16"}


def test_the_link_is_that_of_the_slot(tmp_path: Path) -> None:
    """As with an RX 6800 in a PCIe 3 board (github.com/Umio-Yasuno/amdgpu_top issue 33), but in an x4 slot."""
    sysfs, path = Sysfs(tmp_path), "0000:00:03.1"
    sysfs.device(path, ROOT_PORT)
    for name, port in (("0000:01:00.0", UPSTREAM), ("0000:02:00.0", DOWNSTREAM)):
        path = f"{path}/{name}"
        sysfs.device(path, port)
    device = sysfs.device(f"{path}/0000:03:00.0", {**RADEON, "gpu_busy_percent": "99"})
    sysfs.card(0, device)
    (card,) = sysfs.read().amd
    assert (card.pcie_generation, card.pcie_generation_max) == (3, 3)
    assert (card.pcie_width, card.pcie_width_max) == (4, 16)
    assert (card.busy, card.display) == (True, False)
    (device / "gpu_busy_percent").write_text("3\n")
    for name, word in (("DP-1", "enabled"), ("DP-2", "disabled")):
        connector = tmp_path / f"sys/class/drm/card0-{name}"
        connector.mkdir()
        (connector / "enabled").write_text(f"{word}\n")
    (card,) = sysfs.read().amd
    assert (card.busy, card.display) == (False, True)


def test_without_limits_of_the_port_those_of_the_card_count(tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path)
    sysfs.card(0, sysfs.device("0000:00:05.0", RADEON))
    (card,) = sysfs.read().amd
    assert (card.pcie_generation_max, card.pcie_width, card.pcie_width_max) == (4, 16, 16)


def test_name_of_the_chip_by_lspci_where_libdrm_has_none(tmp_path: Path) -> None:
    """A stand-in for lspci, which only knows the bus of this machine. Output is in the format of -mm (lspci(8))."""
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
    (card,) = sysfs.read("744C,\tC8,\tAMD Radeon RX 7900 XTX\n", f"{tmp_path}:/usr/bin:/bin").amd
    assert card.name == "Navi 31 [Radeon RX 7900 XT]"


@pytest.mark.parametrize(("revision", "integrated"), [(1, False), (2, True), (3, True), (None, False)])
def test_integrated_graphics_are_told_by_the_format_of_their_metrics(
    tmp_path: Path, revision: int | None, integrated: bool
) -> None:
    """As kgd_pp_interface.h begins them: size (16 bits), format and content revision."""
    sysfs = Sysfs(tmp_path)
    files = {**RADEON, "mem_info_vram_total": "4294967296", "mem_info_gtt_total": "103079215104"}
    device = sysfs.device("0000:00:08.1/0000:c3:00.0", files)
    if revision is not None:
        (device / "gpu_metrics").write_bytes(bytes([0x78, 0, revision, 1, *range(100)]))
    sysfs.card(0, device)
    (card,) = sysfs.read().amd
    assert (card.integrated, card.total_mib) == (integrated, 4096)
    assert card.shared_mib == (98304 if integrated else 0)
