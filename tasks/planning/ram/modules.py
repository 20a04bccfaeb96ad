"""A box's memory modules as its firmware lists them, with the speed they truly run at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tasks.planning.ram.part_numbers import Rating, is_sold, rating, standard_speed

_LOWEST_MTS = {"DDR3": 800, "DDR4": 1600}
"""The slowest a generation runs at; below it, firmware has written the clock, which is half of it."""

_LOWEST_SOLD = {"DDR3": 1066, "DDR4": 2133}
"""The slowest that modules of a generation are commonly sold at; below it, a speed may as well be a clock."""

_POSSIBLE_MTS = range(200, 12001)
"""Outside of it, firmware tells no speed: 0, 1, 12, 32768 and 58785 were read."""


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

        AMD's firmware writes the clock where the standard wants the rate (a DDR4-3200 reads 1600), on most boards for
        AM4 and TR4 and many for AM3+, FM2 and AM1. No DDR5 board does, and one at 2000 MT/s runs at 2000: read in
        17,796 dumps of desktops and servers.
        """
        clock = self.configured if self.configured in _POSSIBLE_MTS else 0
        if self.type.startswith("DDR5") or not clock:
            return clock
        written_as_clock = abs(2 * clock - self.speed) <= 3
        if self.type.startswith("LPDDR"):
            return 2 * clock if written_as_clock else clock
        # 933 in a DDR3 box, 1800 in a DDR4 one: nothing is sold at that, and all is at its double. Where the module's
        # own speed is told as the same, somebody has set it by hand, to 2000 for one.
        sold_at_its_double = (
            clock < _LOWEST_SOLD.get(self.type, 0)
            and clock != self.speed
            and not is_sold(clock, self.generation)
            and is_sold(2 * clock, self.generation)
        )
        # A DDR3 box that tells 800 for what its modules can do as well: no module sold since 2010 is that slow.
        told_as_clock = self.type == "DDR3" and max(clock, self.speed) < _LOWEST_SOLD["DDR3"]
        below_all = clock < _LOWEST_MTS.get(self.type, 0)
        return 2 * clock if written_as_clock or sold_at_its_double or told_as_clock or below_all else clock

    @property
    def rating(self) -> Rating | None:
        """The speed it was sold for, by its part number."""
        return rating(self.part_number, self.generation) or standard_speed(
            self.part_number, self.own_speed, self.generation
        )

    @property
    def own_speed(self) -> int:
        """What the firmware says that it can do, in MT/s; 0 where that is no speed of its generation.

        No rating, for a profile may do more, but no less: of 2,039 modules in desktops that ran below it, 33 were sold
        for no more than they ran at.
        """
        lowest = _LOWEST_SOLD["DDR3"] if self.type == "DDR3" else _LOWEST_MTS.get(self.type, 0)
        told = 2 * self.speed if self.speed < lowest else self.speed
        return told if is_sold(told, self.generation) else 0

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
