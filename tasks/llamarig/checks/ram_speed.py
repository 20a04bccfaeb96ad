"""Judges whether RAM runs at its rated speed, from the most to the least reliable source: declared, part number,
indications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from llamarig.checks.ram_module_speed import effective_speed, module_rating, own_speed
from llamarig.facts.ram import Module

TOLERANCE = 0.97
"""Share of the rated speed that counts as full: firmware rounds (2667 for 2666, 5988 for 6000), and old Ryzens run 3000
modules at 2933."""

_SPEED_WITHOUT_PROFILE = {3: 1333, 4: 2666, 5: 4800}
"""MT/s by DDR generation that nearly all kits reach at most without their profile, by the standard speed in their SPD.

For DDR3, 1600 is also a standard speed, but modules that run at 1600 were nearly always sold as such.
"""

_FOUR_DDR5_MODULES = 3600
"""MT/s that AMD (Ryzen 7000, 9000) and Intel (12th to 14th Core) guarantee for two DDR5 modules a channel."""


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

    ``limit``: why no BIOS setting may reach the rated speed; empty if one should.
    """

    verdict: Verdict
    mts: int = 0
    rated: int = 0
    source: str = ""
    limit: str = ""

    @property
    def percent(self) -> int:
        """Current bandwidth in percent of the rated one."""
        return 100 * self.mts // self.rated if self.rated else 0


def judge(modules: Sequence[Module], declared: int | None = None) -> RamSpeed:
    """Judge the speed of a box's RAM.

    :param modules: the populated slots, without flash chips and empty slots
    :param declared: MT/s from the inventory; it takes precedence over part numbers
    """
    running = [mts for module in modules if (mts := effective_speed(module))]
    if not running:
        return RamSpeed(Verdict.UNKNOWN, rated=declared or 0, source="declared" if declared else "")
    # All channels run at the speed of the slowest module.
    mts = min(running)
    if declared is not None:
        return _compare(mts, declared, "declared", modules)
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
            return _compare(mts, at_least, "by the firmware; a part number names no speed", modules)
        if not known:
            return _unrated(mts, modules)
    rated = min(rating.mts for _, rating in known)
    parts = ", ".join(sorted({part for part, rating in known if rating.mts == rated}))
    source = f"part number {parts}"
    if all(rating.from_firmware for _, rating in known if rating.mts == rated):
        source = f"by the firmware for {parts}, which needs no profile"
    if None in ratings and mts < rated * TOLERANCE:
        return RamSpeed(Verdict.SUSPECT, mts, rated, f"{source}; another module's names no speed")
    return _compare(mts, rated, source, modules)


def _compare(mts: int, rated: int, source: str, modules: Sequence[Module]) -> RamSpeed:
    if mts >= rated * TOLERANCE:
        return RamSpeed(Verdict.FULL, mts, rated, source)
    return RamSpeed(Verdict.BELOW, mts, rated, source, _limit(mts, modules))


def _limit(mts: int, modules: Sequence[Module]) -> str:
    """The reason why the platform may not reach the rated speed; empty if a BIOS setting should."""
    ratings = [module_rating(module) for module in modules]
    ddr5 = any(module.generation == 5 for module in modules) or any(one and one.generation == 5 for one in ratings)
    if ddr5 and len(modules) >= 4 and (channels_share(modules)) and mts >= _FOUR_DDR5_MODULES:
        return (
            "two DDR5 modules a channel: desktop processors guarantee 3600 to 4400 MT/s for four modules, "
            "so this is normal; two larger modules would run faster"
        )
    if None in ratings:
        return "a part number names no speed: a profile may be off, or the processor or the board sets the limit"
    if all(rating is not None and rating.profile is False for rating in ratings):
        return "modules of a JEDEC standard speed, which need no profile: the processor or the board sets the limit"
    if all(module.form_factor == "SODIMM" for module in modules) and not any(
        rating is not None and rating.profile for rating in ratings
    ):
        return "laptop modules: few laptop BIOSes have a memory profile to enable; the processor sets the limit"
    return ""


def channels_share(modules: Sequence[Module]) -> bool:
    """Whether two modules share a channel. If slot names do not tell, four modules do on a desktop board."""
    named = {module.channel for module in modules}
    return None in named or len(named) < len(modules)


def _unrated(mts: int, modules: Sequence[Module]) -> RamSpeed:
    base = max((_SPEED_WITHOUT_PROFILE.get(module.generation or 0, 0) for module in modules), default=0)
    if base and mts <= base * 1.01:
        return RamSpeed(Verdict.SUSPECT, mts, 0, "a standard speed without a profile; the part number names no speed")
    return RamSpeed(Verdict.FULL if base else Verdict.UNKNOWN, mts)
