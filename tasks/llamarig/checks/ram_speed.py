"""Judges whether RAM runs at its rated speed, from the most to the least reliable source: declared, part number,
indications."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from llamarig.checks.memory_limits import MemoryLimit, memory_limit
from llamarig.checks.ram_part_numbers import Rating, is_sold, of_a_kit_of_four, rating, standard_speed
from llamarig.facts.ram import Module, Ram

TOLERANCE = 0.97
"""Share of the rated speed that counts as full: firmware rounds (2667 for 2666, 5988 for 6000), and old Ryzens run 3000
modules at 2933."""

_SPEED_WITHOUT_PROFILE = {3: 1333, 4: 2666, 5: 4800}
"""MT/s by DDR generation that nearly all kits reach at most without their profile, by the standard speed in their SPD.

For DDR3, 1600 is also a standard speed, but modules that run at 1600 were nearly always sold as such.
"""

_STANDARD_DDR5 = (5200, 5600, 6400)
"""Faster standard speeds of DDR5: the SPD of many a kit that is sold as 6000 to 8000 has one of them."""

_FOUR_DDR5_MODULES = range(3600, 4401)
"""MT/s that processors guarantee for two DDR5 modules a channel: 3600 AMD (Ryzen 7000, 9000), 3600 to 4400 Intel (12th
to 14th Core), depending on ranks."""


_WITH_MANY_CHANNELS = re.compile(r"\bXeon\b(?!.* E-)|EPYC [89]|Threadripper")
"""Processors of servers and workstations, with four channels or more for DDR5, and limits of their own."""

_LOWEST_MTS = {"DDR3": 800, "DDR4": 1600}
"""The slowest that a generation runs at; a lower number is the clock, which is half of the rate."""

_LOWEST_SOLD = {"DDR3": 1066, "DDR4": 2133}
"""The slowest that modules of a generation are commonly sold at; a lower number may be a clock."""

_SLOWEST_MTS, _FASTEST_MTS = 200, {3: 3200, 4: 5600, 5: 12000}
"""Other values are not speeds: firmware has reported 0, 1, 12, 32768 and 58785, and 6567 and 10431 for DDR3."""


class Verdict(Enum):
    """``BELOW`` is certain; ``SUSPECT`` has to be confirmed by the owner; ``UNKNOWN``: there is too little data."""

    FULL = "full"
    BELOW = "below"
    SUSPECT = "suspect"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class RamSpeed:
    """The judgement of a box's RAM. ``mts``: current speed, ``rated``: speed it should run at; both in MT/s, 0 if
    unknown.

    ``limit``: why no BIOS setting may reach the rated speed, or more than the current one; empty if one should.
    """

    verdict: Verdict
    mts: int = 0
    rated: int = 0
    source: str = ""
    limit: str = ""
    fixed: bool = False
    """Whether ``limit`` holds whatever the modules: the processor, the chipset or the board allows no more."""

    @property
    def percent(self) -> int:
        """Current bandwidth in percent of the rated one."""
        return 100 * self.mts // self.rated if self.rated else 0


def judge(ram: Ram, declared: int | None = None) -> RamSpeed:
    """Judge the speed of a box's RAM.

    :param declared: MT/s from the inventory; it takes precedence over part numbers
    """
    modules = ram.modules
    running = [mts for module in modules if (mts := effective_speed(module))]
    if not running:
        return RamSpeed(Verdict.UNKNOWN, rated=declared or 0, source="declared" if declared else "")
    # All channels run at the speed of the slowest module.
    mts = min(running)
    if declared is not None:
        return _compare(mts, declared, "declared", ram)
    if all(module.soldered for module in modules):
        rated = min((module.speed for module in modules if module.speed), default=0)
        if rated and mts < rated * TOLERANCE:
            return RamSpeed(Verdict.SUSPECT, mts, rated, "the chips' own speed", "soldered memory has no profile")
        return RamSpeed(Verdict.FULL, mts, rated, "the chips' own speed")
    ratings = [module_rating(module) for module in modules]
    known = [(module.part_number.strip(), one) for module, one in zip(modules, ratings, strict=True) if one is not None]
    if None in ratings:
        # Each module can run at least at this speed, so the slowest of them sets it for all.
        at_least = min(one.mts if one else own_speed(module) for module, one in zip(modules, ratings, strict=True))
        if mts < at_least * TOLERANCE:
            return _compare(mts, at_least, "by the firmware; a part number names no speed", ram)
        if not known:
            return _unrated(mts, ram)
    rated = min(rating.mts for _, rating in known)
    parts = ", ".join(sorted({part for part, rating in known if rating.mts == rated}))
    source = f"part number {parts}"
    if all(rating.from_firmware for _, rating in known if rating.mts == rated):
        source = f"by the firmware for {parts}, which needs no profile"
    if None in ratings and mts < rated * TOLERANCE:
        return RamSpeed(Verdict.SUSPECT, mts, rated, f"{source}; another module's names no speed")
    return _compare(mts, rated, source, ram)


def _compare(mts: int, rated: int, source: str, ram: Ram) -> RamSpeed:
    if mts >= rated * TOLERANCE:
        return RamSpeed(Verdict.FULL, mts, rated, source)
    platform = _platform_limit(ram)
    if platform is not None and platform.mts < rated * TOLERANCE and mts >= platform.mts * TOLERANCE:
        limit = f"{platform.setter} no more than {max(platform.mts, mts)} MT/s, so this is normal"
        return RamSpeed(Verdict.BELOW, mts, rated, source, limit, fixed=True)
    return RamSpeed(Verdict.BELOW, mts, rated, source, _limit(mts, rated, ram))


_FOUR_DDR5 = f"{_FOUR_DDR5_MODULES[0]} to {_FOUR_DDR5_MODULES[-1]} MT/s that desktop processors"


def _limit(mts: int, rated: int, ram: Ram) -> str:
    """The reason why the modules may not reach the rated speed; empty if a BIOS setting should."""
    modules = ram.modules
    if _are_four_ddr5(ram) and mts > _FOUR_DDR5_MODULES[-1] * 1.01:
        return (
            f"{mts} MT/s is more than the {_FOUR_DDR5} guarantee for two DDR5 modules a channel, and less than the "
            f"{rated} MT/s of each module: its profile may be off, or four modules may not reach it here; try it"
        )
    if _are_four_ddr5(ram) and mts >= _FOUR_DDR5_MODULES[0] * TOLERANCE:
        return (
            f"the modules share channels, and {_FOUR_DDR5} guarantee then, so this is normal; two larger modules would "
            "run faster"
        )
    ratings = [module_rating(module) for module in modules]
    if any(module.screwed_on for module in modules):
        return "modules that are screwed on (CAMM2, LPCAMM2), which need no profile: processor or board set the limit"
    if None in ratings:
        return "a part number names no speed: a profile may be off, or the processor or the board sets the limit"
    if all(rating is not None and rating.profile is False for rating in ratings):
        return "modules of a JEDEC standard speed, which need no profile: the processor or the board sets the limit"
    if all(module.form_factor == "SODIMM" for module in modules) and not any(
        rating is not None and rating.profile for rating in ratings
    ):
        return "laptop modules: few laptop BIOSes have a memory profile to enable; the processor sets the limit"
    return ""


def _platform_limit(ram: Ram) -> MemoryLimit | None:
    generation = next((module.generation for module in ram.modules if module.generation), None)
    return memory_limit(ram.processor, ram.board, generation)


def _are_four_ddr5(ram: Ram) -> bool:
    """Whether a desktop's DDR5 modules share channels and were not sold together, as a kit with a profile for all."""
    modules = ram.modules
    if _WITH_MANY_CHANNELS.search(ram.processor):
        return False
    ratings = [module_rating(module) for module in modules]
    ddr5 = any(module.generation == 5 for module in modules) or any(one and one.generation == 5 for one in ratings)
    kit = all(of_a_kit_of_four(module.part_number) for module in modules)
    return ddr5 and not kit and len(modules) >= 4 and channels_share(modules)


def channels_share(modules: Sequence[Module]) -> bool:
    """Whether two modules share a channel. If slot names do not tell, four modules do on a desktop board."""
    named = {module.channel for module in modules}
    return None in named or len(named) < len(modules)


def _unrated(mts: int, ram: Ram) -> RamSpeed:
    """Judge modules whose part numbers name no speed: by the standard speeds that kits have without their profile."""
    generation = max((module.generation or 0 for module in ram.modules), default=0)
    base = _SPEED_WITHOUT_PROFILE.get(generation, 0)
    platform = _platform_limit(ram)
    if platform is not None and mts >= platform.mts * TOLERANCE:
        return RamSpeed(Verdict.FULL, mts, limit=f"{platform.setter} no more")
    if base and mts <= base * 1.01:
        return RamSpeed(Verdict.SUSPECT, mts, 0, "a standard speed without a profile; the part number names no speed")
    if generation == 5 and any(abs(mts - standard) <= 0.01 * standard for standard in _STANDARD_DDR5):
        source = (
            "a standard speed, at which kits sold as 6000 to 8000 run without a profile; the part number names none"
        )
        return RamSpeed(Verdict.SUSPECT, mts, 0, source)
    return RamSpeed(Verdict.FULL if base else Verdict.UNKNOWN, mts)


def effective_speed(module: Module) -> int:
    """Speed that a module runs at in MT/s, 0 where the firmware does not report it.

    AMD's firmware reports the clock instead of the rate (1600 for DDR4-3200) on most boards for AM4 and TR4, and on
    many for AM3+, FM2 and AM1. No DDR5 board does, and a DDR5 module at 2000 MT/s runs at 2000. Source: 17,796 dumps
    of desktops and servers.
    """
    fastest = _FASTEST_MTS.get(module.generation or 5, 0)
    clock = module.configured if _SLOWEST_MTS <= module.configured <= fastest else 0
    if module.type.startswith("DDR5") or not clock:
        return clock
    is_half_of_own = abs(2 * clock - module.speed) <= 3
    if module.type.startswith("LPDDR"):
        return 2 * clock if is_half_of_own else clock
    # 933 in a DDR3 box, 1800 in a DDR4 one: no module is sold at that, but some are at its double. Where the module's
    # own speed is reported as the same, somebody has set it by hand, for example to 2000.
    is_sold_at_double = (
        clock < _LOWEST_SOLD.get(module.type, 0)
        and clock != module.speed
        and not is_sold(clock, module.generation)
        and is_sold(2 * clock, module.generation)
    )
    # A DDR3 box that reports 800 for the module's own speed as well: no module sold since 2010 is that slow.
    are_both_clocks = module.type == "DDR3" and max(clock, module.speed) < _LOWEST_SOLD["DDR3"]
    is_below_all = clock < _LOWEST_MTS.get(module.type, 0)
    return 2 * clock if is_half_of_own or is_sold_at_double or are_both_clocks or is_below_all else clock


def module_rating(module: Module) -> Rating | None:
    """Speed that a module was sold for, by its part number; None where that does not contain it."""
    found = rating(module.part_number, module.generation)
    if found is None and not module.type:
        # An old dmidecode does not know the type; DDR4 of 4000 and more, which looks like DDR5, says what it is itself.
        named = rating(module.part_number)
        found = named if named is not None and named.generation is not None else None
    return found or standard_speed(module.part_number, own_speed(module), module.generation)


def own_speed(module: Module) -> int:
    """Speed that a module supports without a profile, by its firmware, in MT/s; 0 where that is no valid speed.

    A lower bound of its rating, because a profile may be faster: of 2,039 modules in desktops that ran below it, 33
    were sold for no more than they ran at.
    """
    lowest = _LOWEST_SOLD["DDR3"] if module.type == "DDR3" else _LOWEST_MTS.get(module.type, 0)
    speed = 2 * module.speed if module.speed < lowest else module.speed
    return speed if is_sold(speed, module.generation) else 0
