"""A box's memory modules as its firmware lists them, with the speed they truly run at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tasks.planning.ram.part_numbers import Rating, rating

_LOWEST_MTS = {"DDR3": 800, "DDR4": 1600}
"""The slowest a generation runs at; below it, firmware has written the clock, which is half of it."""


@dataclass(frozen=True)
class Module:
    """One populated memory slot (SMBIOS type 17). Speeds in MT/s as the firmware has them, 0 where it has none."""

    size_mib: int
    type: str = ""
    form_factor: str = ""
    locator: str = ""
    bank: str = ""
    speed: int = 0
    configured: int = 0
    manufacturer: str = ""
    part_number: str = ""
    ranks: int = 0
    total_width: int = 0
    data_width: int = 0

    @property
    def generation(self) -> int | None:
        """3, 4 or 5; None where neither the firmware nor the speed tells (an old dmidecode, a virtual machine)."""
        if match := re.search(r"DDR([345])", self.type):
            return int(match[1])
        return None

    @property
    def soldered(self) -> bool:
        """LPDDR, or chips on the board: no profile exists for it."""
        return self.type.startswith("LPDDR") or "chip" in self.form_factor.lower()

    @property
    def ecc(self) -> bool:
        """Whether it carries check bits beside its data bits."""
        return 0 < self.data_width < self.total_width

    @property
    def effective(self) -> int:
        """What it runs at in MT/s, 0 where the firmware does not say.

        AMD's firmware for AM4 and TR4 writes the clock where the standard wants the rate (a DDR4-3200 reads 1600). No
        DDR5 board does, and one at 2000 MT/s runs at 2000: read in 17,796 dumps of desktops and servers.
        """
        clock = self.configured
        if self.type.startswith("DDR5") or not clock:
            return clock
        written_as_clock = abs(2 * clock - self.speed) <= 3
        if self.type.startswith("LPDDR"):
            return 2 * clock if written_as_clock else clock
        return 2 * clock if written_as_clock or clock < _LOWEST_MTS.get(self.type, 0) else clock

    @property
    def rating(self) -> Rating | None:
        """The speed it was sold for, by its part number."""
        return rating(self.part_number, self.generation)

    @property
    def channel(self) -> str | None:
        """Which memory channel it sits in, None where the board's names do not tell."""
        return _channel(self.locator, self.bank)


_CHANNELS = (
    r"(?P<above>P\d+ |Node\d+[_ ]|Controller\d+-)?Channel ?-?(?P<channel>[A-L0-9])",
    r"(?P<above>P\d-)?DIMM[ _-]?(?P<channel>[A-L])\d?\b",
    r"(?P<above>)(?P<channel>Controller\d+)-DIMM",
)


def _channel(locator: str, bank: str) -> str | None:
    for text in (locator, bank):
        for pattern in _CHANNELS:
            if match := re.search(pattern, text, re.IGNORECASE):
                return f"{match['above'] or ''}{match['channel']}".upper()
    return None


def channels_used(modules: Iterable[Module]) -> int | None:
    """How many memory channels hold a module; None where one module's place is not told."""
    found = [module.channel for module in modules]
    return None if None in found else len(set(found))


@dataclass(frozen=True)
class Ram:
    """``slots``: sockets for memory, full or empty; ``why_not``: why nothing could be read, empty where it could."""

    modules: tuple[Module, ...] = ()
    slots: int = 0
    why_not: str = ""
