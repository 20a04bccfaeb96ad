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

    def asked(self, amdgpu_ids: str = "") -> GpuState:
        (self.root / "amdgpu.ids").write_text(amdgpu_ids)
        command = Gpus().command().replace("/usr/share/libdrm/", f"{self.root}/").replace("/sys/", f"{self.root}/sys/")
        said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
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
