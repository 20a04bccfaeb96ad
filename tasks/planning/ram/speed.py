"""Does the RAM run at the speed its owner paid for? In order of trust: declared, sold for, suspected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from tasks.planning.ram.modules import Module

TOLERANCE = 0.97
"""Firmware rounds (2667 for 2666, 5988 for 6000), and old Ryzens have no strap for 3000 and take 2933."""

_JEDEC_BASE = {3: 1333, 4: 2666, 5: 4800}
"""Where a kit without its profile lands at best: its SPD's standard speed is no higher on nearly all kits.

For DDR3 that is 1600 as well, but what runs at 1600 was sold for it as good as always.
"""

_FOUR_DDR5_FLOOR = 3600
"""MT/s that AMD (Ryzen 7000, 9000) and Intel (12th to 14th Core) promise for two DDR5 modules a channel."""


class Verdict(Enum):
    """``BELOW`` is sure, ``SUSPECT`` is a question to the owner, ``UNKNOWN`` means that nothing can be said."""

    FULL = "full"
    BELOW = "below"
    SUSPECT = "suspect"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Speed:
    """``mts``: what the RAM runs at, ``rated``: what it should, both in MT/s, 0 where not known.

    ``limit``: why the full speed may be out of reach of any BIOS setting; empty where it is not.
    """

    verdict: Verdict
    mts: int = 0
    rated: int = 0
    source: str = ""
    limit: str = ""

    @property
    def percent(self) -> int:
        """Share of the rated bandwidth that is there."""
        return 100 * self.mts // self.rated if self.rated else 0


def judge(modules: Sequence[Module], declared: int | None = None) -> Speed:
    """What to think of the speed of a box's RAM.

    :param modules: the populated slots; flash chips and empty slots left out
    :param declared: the inventory's word in MT/s; it is trusted over any part number
    """
    running = [module.effective for module in modules if module.effective]
    if not running:
        return Speed(Verdict.UNKNOWN, rated=declared or 0, source="declared" if declared else "")
    # The slowest sets the pace: channels run in step.
    mts = min(running)
    if declared is not None:
        return _against(mts, declared, "declared", modules)
    if all(module.soldered for module in modules):
        rated = min((module.speed for module in modules if module.speed), default=0)
        if rated and mts < rated * TOLERANCE:
            return Speed(Verdict.SUSPECT, mts, rated, "the chips' own speed", "soldered memory has no profile")
        return Speed(Verdict.FULL, mts, rated, "the chips' own speed")
    known = [(module.part_number.strip(), module.rating) for module in modules if module.rating is not None]
    if any(module.rating is None for module in modules):
        # Each module can do at least this much; the slowest of them, all can.
        surely = min(module.rating.mts if module.rating else module.own_speed for module in modules)
        if mts < surely * TOLERANCE:
            return _against(mts, surely, "the firmware's own word; a part number says nothing", modules)
        if not known:
            return _unrated(mts, modules)
    rated = min(rating.mts for _, rating in known)
    parts = ", ".join(sorted({part for part, rating in known if rating.mts == rated}))
    source = f"part number {parts}"
    if all(rating.told_by_firmware for _, rating in known if rating.mts == rated):
        source = f"the firmware's own word of {parts}, which takes no profile"
    if any(module.rating is None for module in modules) and mts < rated * TOLERANCE:
        return Speed(Verdict.SUSPECT, mts, rated, f"{source}; another module's says nothing")
    return _against(mts, rated, source, modules)


def _against(mts: int, rated: int, source: str, modules: Sequence[Module]) -> Speed:
    if mts >= rated * TOLERANCE:
        return Speed(Verdict.FULL, mts, rated, source)
    return Speed(Verdict.BELOW, mts, rated, source, _limit(mts, modules))


def _limit(mts: int, modules: Sequence[Module]) -> str:
    """Why this may be all the platform gives; empty where a BIOS setting is sure to be worth a try."""
    ddr5 = any(module.generation == 5 or (module.rating and module.rating.generation == 5) for module in modules)
    if ddr5 and len(modules) >= 4 and (channels_share(modules)) and mts >= _FOUR_DDR5_FLOOR:
        return (
            "two DDR5 modules a channel: desktop processors promise 3600 to 4400 MT/s for four modules, "
            "so this is normal; two larger modules would run faster"
        )
    ratings = [module.rating for module in modules]
    if None in ratings:
        return "a part number says nothing: a profile may be off, or the processor or the board sets the limit"
    if all(rating is not None and rating.profile is False for rating in ratings):
        return "modules of a JEDEC standard speed, which takes no profile: the processor or the board sets the limit"
    if all(module.form_factor == "SODIMM" for module in modules) and not any(
        rating is not None and rating.profile for rating in ratings
    ):
        return "a laptop's modules: few of its BIOSes have a memory profile to switch on; the processor sets the limit"
    return ""


def channels_share(modules: Sequence[Module]) -> bool:
    """Whether two modules sit on one channel; where the board's names do not tell, four do on a desktop board."""
    named = {module.channel for module in modules}
    return None in named or len(named) < len(modules)


def _unrated(mts: int, modules: Sequence[Module]) -> Speed:
    base = max((_JEDEC_BASE.get(module.generation or 0, 0) for module in modules), default=0)
    if base and mts <= base * 1.01:
        return Speed(Verdict.SUSPECT, mts, 0, "a standard speed without a profile; the part number says nothing")
    return Speed(Verdict.FULL if base else Verdict.UNKNOWN, mts)
