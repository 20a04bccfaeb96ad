"""Display controllers on the PCI bus, read by the fact's own command from a directory tree like sysfs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from llamarig.facts.display_cards import CardsOnBus, DisplayCard, DisplayCards

DATA = Path(__file__).parent / "data"


def read(root: Path, path: str = "/usr/bin:/bin") -> CardsOnBus:
    command = DisplayCards().command().replace("/sys/", f"{root}/sys/").replace("/usr/share/vulkan", f"{root}/vulkan")
    done = subprocess.run(["sh", "-c", command], env={"PATH": path}, capture_output=True, text=True, check=True)
    return DisplayCards().process(done.stdout.splitlines())


def device(root: Path, address: str, **files: str) -> Path:
    at = root / "sys/bus/pci/devices" / address
    at.mkdir(parents=True)
    for name, text in files.items():
        (at / name).write_text(f"{text}\n")
    return at


def test_a_card_its_driver_and_its_displays(tmp_path: Path) -> None:
    """With a stand-in for udevadm, which knows the devices of this machine only."""
    at = device(tmp_path, "0000:01:00.0", vendor="0x10de", device="0x2204", **{"class": "0x030000"})
    device(tmp_path, "0000:01:00.1", vendor="0x10de", device="0x1aef", **{"class": "0x040300"})
    (tmp_path / "nouveau").mkdir()
    (at / "driver").symlink_to(tmp_path / "nouveau")
    for connector, status in (("card1-DP-1", "connected"), ("card1-HDMI-A-1", "disconnected")):
        (at / "drm/card1" / connector).mkdir(parents=True)
        (at / "drm/card1" / connector / "status").write_text(f"{status}\n")
    udevadm = tmp_path / "udevadm"
    udevadm.write_text("#!/bin/sh\necho ID_VENDOR_ID=10de\necho 'ID_MODEL_FROM_DATABASE=GA102 [GeForce RTX 3090]'\n")
    udevadm.chmod(0o755)
    card = DisplayCard("0000:01:00.0", "0x10de", "0x2204", "nouveau", 1, "GA102 [GeForce RTX 3090]")
    assert read(tmp_path, f"{tmp_path}:/usr/bin:/bin") == CardsOnBus((card,))


def test_a_card_without_a_name_or_a_driver_and_nvidias_vulkan(tmp_path: Path) -> None:
    device(tmp_path, "0000:01:00.0", vendor="0x10de", device="0x2204", **{"class": "0x030200"})
    (tmp_path / "vulkan/icd.d").mkdir(parents=True)
    (tmp_path / "vulkan/icd.d/nvidia_icd.json").write_text("{}")
    (tmp_path / "udevadm").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "udevadm").chmod(0o755)
    found = read(tmp_path, f"{tmp_path}:/usr/bin:/bin")
    assert found == CardsOnBus((DisplayCard("0000:01:00.0", "0x10de", "0x2204"),), nvidia_vulkan=True)


def test_a_real_h200() -> None:
    text = (DATA / "answers/DisplayCards.vm_h200.txt").read_text()
    (card,) = DisplayCards().process(text.splitlines()).cards
    assert (card.vendor, card.device, card.driver, card.name) == ("0x10de", "0x2335", "nvidia", "")
