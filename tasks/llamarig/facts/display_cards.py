"""The graphics cards on a box's PCI bus by name, whether a driver answers or not."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.output import parse_sections, sections_command

# Classes 0x03...: VGA, 3D and other display controllers. udev's database of names comes with systemd, and lspci's with
# a package that a box may lack.
_CARDS = (
    "for d in /sys/bus/pci/devices/*; do read -r c <$d/class; case $c in 0x03*) ;; *) continue;; esac; "
    "read -r v <$d/vendor; read -r i <$d/device; k=$(readlink $d/driver); "
    "n=$(udevadm info --query=property --path=$d | sed -n 's/^ID_MODEL_FROM_DATABASE=//p'); "
    'test -n "$n" || n=$(lspci -mm -s ${d##*/} | cut -d\'"\' -f6); '
    's=$(cat $d/drm/card*/card*-*/status | grep -cx connected); echo "${d##*/}|$v|$i|${k##*/}|$s|$n"; done'
)
_VULKAN = "ls /usr/share/vulkan/icd.d/nvidia_icd*.json /etc/vulkan/icd.d/nvidia_icd*.json | head -n 1"


@dataclass(frozen=True)
class DisplayCard:
    """One display controller on the bus. Texts are empty where unknown.

    ``name``: as the PCI database has it, ``GA102 [GeForce RTX 3090]``; ``displays``: how many are connected to it, as
    far as a driver of the kernel's own display interface knows.
    """

    bus_id: str
    vendor: str
    """As in sysfs: 0x10de."""
    device: str = ""
    driver: str = ""
    displays: int = 0
    name: str = ""


@dataclass(frozen=True)
class CardsOnBus:
    """``nvidia_vulkan``: whether NVIDIA's driver is installed with its part for Vulkan."""

    cards: tuple[DisplayCard, ...] = ()
    nvidia_vulkan: bool = False


class DisplayCards(FactBase[CardsOnBus]):
    """Display controllers on the PCI bus. Any user may read them.

    Output: address, vendor, device, driver, connected displays, name::

        == cards
        0000:01:00.0|0x10de|0x2204|nvidia|1|GA102 [GeForce RTX 3090]

        == nvidia-vulkan
        /usr/share/vulkan/icd.d/nvidia_icd.json
    """

    default = CardsOnBus

    def command(self) -> str:
        return sections_command({"cards": _CARDS, "nvidia-vulkan": _VULKAN})

    def process(self, output: list[str]) -> CardsOnBus:
        sections = parse_sections(output)
        cards = (_card(line) for line in sections["cards"])
        return CardsOnBus(tuple(card for card in cards if card is not None), bool(sections["nvidia-vulkan"]))


def _card(line: str) -> DisplayCard | None:
    words = [word.strip() for word in line.split("|", 5)]
    if len(words) != 6 or not re.fullmatch(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", words[0]):
        return None
    bus_id, vendor, device, driver, displays, name = words
    return DisplayCard(
        bus_id, vendor, device, driver, int(displays) if re.fullmatch("[0-9]{1,2}", displays) else 0, name
    )
