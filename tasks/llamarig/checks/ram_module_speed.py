"""Speed of a memory module. Firmware reports either its clock or its rate (MT/s), which is twice the clock."""

from __future__ import annotations

from llamarig.checks.ram_part_numbers import Rating, is_sold, rating, standard_speed
from llamarig.facts.ram import Module

_LOWEST_MTS = {"DDR3": 800, "DDR4": 1600}
"""The slowest that a generation runs at; a lower number is the clock, which is half of the rate."""

_LOWEST_SOLD = {"DDR3": 1066, "DDR4": 2133}
"""The slowest that modules of a generation are commonly sold at; a lower number may be a clock."""

_POSSIBLE_MTS = range(200, 12001)
"""Other values are not speeds: firmware has reported 0, 1, 12, 32768 and 58785."""


def effective_speed(module: Module) -> int:
    """Speed that a module runs at in MT/s, 0 where the firmware does not report it.

    AMD's firmware reports the clock instead of the rate (1600 for DDR4-3200) on most boards for AM4 and TR4, and on
    many for AM3+, FM2 and AM1. No DDR5 board does, and a DDR5 module at 2000 MT/s runs at 2000. Source: 17,796 dumps
    of desktops and servers.
    """
    clock = module.configured if module.configured in _POSSIBLE_MTS else 0
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
    return rating(module.part_number, module.generation) or standard_speed(
        module.part_number, own_speed(module), module.generation
    )


def own_speed(module: Module) -> int:
    """Speed that a module supports without a profile, by its firmware, in MT/s; 0 where that is no valid speed.

    A lower bound of its rating, because a profile may be faster: of 2,039 modules in desktops that ran below it, 33
    were sold for no more than they ran at.
    """
    lowest = _LOWEST_SOLD["DDR3"] if module.type == "DDR3" else _LOWEST_MTS.get(module.type, 0)
    speed = 2 * module.speed if module.speed < lowest else module.speed
    return speed if is_sold(speed, module.generation) else 0
