"""Speeds that firmware reports for modules, from dumps of linuxhw/DMI, and their judgement."""

from __future__ import annotations

import pytest
from llamarig.checks.ram_speed import Verdict, effective_speed, judge, own_speed
from llamarig.facts.ram import Module


def module(ddr: str, configured: int, speed: int, part: str = "") -> Module:
    return Module(size_mib=8192, type=ddr, configured=configured, speed=speed, part_number=part)


@pytest.mark.parametrize(
    ("ddr", "configured", "speed", "runs_at"),
    [
        ("DDR3", 1600, 1600, 1600),
        ("DDR3", 800, 1600, 1600),  # FX-8350 on a SABERTOOTH 990FX: the clock
        ("DDR3", 800, 800, 1600),  # FX-8320 on a 970A-DS3P: both are clocks
        ("DDR3", 800, 933, 1600),  # FX-8350, KHX1866C10D3: both are clocks
        ("DDR3", 933, 1333, 1866),  # KHX1866C10D3: the clock, beside the SPD's rate
        ("DDR3", 800, 1333, 800),  # a Xeon X5650 with three modules a channel
        ("DDR3", 58785, 1333, 0),
        ("DDR3", 6, 800, 0),
        ("DDR4", 1600, 3200, 3200),  # a Threadripper 1950X
        ("DDR4", 1800, 2133, 3600),  # the clock, beside the SPD's rate
        ("DDR4", 2000, 2000, 2000),  # an i7-6700K, set by hand
        ("DDR4", 1866, 2133, 1866),  # a Xeon E5-2620 v3
        ("DDR5", 2000, 4800, 2000),
    ],
)
def test_clocks_and_transfer_rates_are_distinguished(ddr: str, configured: int, speed: int, runs_at: int) -> None:
    assert effective_speed(module(ddr, configured, speed)) == runs_at


def test_a_speed_that_no_module_has_is_ignored() -> None:
    """UD5-5600 on a Z790 GAMING X AX reports 12800."""
    assert own_speed(module("DDR5", 5600, 12800)) == 0
    assert judge([module("DDR5", 5600, 12800, "nothing known")]).verdict is Verdict.FULL


def test_below_its_own_speed_is_below_its_rating() -> None:
    speed = judge([module("DDR4", 2133, 2400, "M428066")] * 2)
    assert (speed.verdict, speed.mts, speed.rated) == (Verdict.BELOW, 2133, 2400)
    assert "the processor or the board" in speed.limit


def test_the_slowest_of_mixed_modules_decides() -> None:
    unknown_at_2133 = module("DDR4", 2133, 2133, "atermiter")
    assert judge([module("DDR4", 2133, 2400, "M428066"), unknown_at_2133]).verdict is Verdict.SUSPECT
    speed = judge([module("DDR4", 2133, 2133, "F4-3200C16-8GVKB"), unknown_at_2133])
    assert (speed.verdict, speed.rated) == (Verdict.SUSPECT, 3200)
    slower_both = judge([module("DDR4", 2133, 2133, "F4-3200C16-8GVKB"), module("DDR4", 2133, 2666, "atermiter")])
    assert (slower_both.verdict, slower_both.rated) == (Verdict.BELOW, 2666)


def test_a_stock_number_is_compared_with_the_spd() -> None:
    assert judge([module("DDR3", 1600, 1600, "99U5471-054.A00LF")]).verdict is Verdict.FULL
    slow = judge([module("DDR3", 1333, 1600, "99U5471-054.A00LF")])
    assert (slow.verdict, slow.rated) == (Verdict.BELOW, 1600)
    assert "needs no profile" in slow.source
    assert judge([module("DDR3", 1067, 1067, "99U5471-012.A00LF")]).verdict is Verdict.SUSPECT


def test_ddr3_of_an_unknown_maker_is_suspect_only_below_1600() -> None:
    assert judge([module("DDR3", 1333, 1333, "KETECH")]).verdict is Verdict.SUSPECT
    assert judge([module("DDR3", 1600, 1600, "KETECH")]).verdict is Verdict.FULL


def test_laptop_modules_are_not_told_to_enable_a_profile() -> None:
    plain = Module(
        size_mib=16384, type="DDR5", form_factor="SODIMM", configured=4800, speed=5600, part_number="CT16G56C46S5.M8G1"
    )
    speed = judge([plain, plain])
    assert (speed.verdict, speed.rated) == (Verdict.BELOW, 5600)
    assert "few laptop BIOSes" in speed.limit
    fast = Module(
        size_mib=16384, type="DDR5", form_factor="SODIMM", configured=4800, speed=4800, part_number="KF556S40-16"
    )
    assert judge([fast, fast]).limit == ""
