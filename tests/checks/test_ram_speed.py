"""Speeds that firmware reports for modules, from dumps of linuxhw/DMI, and their judgement."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from llamarig.checks.ram_speed import RamSpeed, Verdict, effective_speed, own_speed
from llamarig.checks.ram_speed import judge as judge_ram
from llamarig.facts.ram import Module, Ram


def module(ddr: str, configured: int, speed: int, part: str = "") -> Module:
    return Module(size_mib=8192, type=ddr, configured=configured, speed=speed, part_number=part)


def judge(modules: Sequence[Module], processor: str = "", board: str = "") -> RamSpeed:
    return judge_ram(Ram(tuple(modules), len(modules), processor=processor, board=board))


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
        ("DDR3", 10431, 10431, 0),
        ("DDR3", 6567, 1600, 0),
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
    assert judge([module("DDR3", 10431, 10431, "nothing known")]).verdict is Verdict.UNKNOWN


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
    assert judge([module("DDR3", 1600, 1600, "99U5000-054.A00LF")]).verdict is Verdict.FULL
    slow = judge([module("DDR3", 1333, 1600, "99U5000-054.A00LF")])
    assert (slow.verdict, slow.rated) == (Verdict.BELOW, 1600)
    assert "needs no profile" in slow.source
    assert judge([module("DDR3", 1067, 1067, "99U5000-012.A00LF")]).verdict is Verdict.SUSPECT


def test_a_frequent_stock_number_is_known_without_the_spd() -> None:
    slow = judge([module("DDR3", 1067, 1067, "99U5471-012.A00LF")])
    assert (slow.verdict, slow.rated) == (Verdict.BELOW, 1333)


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


@pytest.mark.parametrize(
    ("processor", "board", "modules", "verdict", "rated", "words"),
    [
        (
            *("Intel(R) Core(TM) i7-6700 CPU @ 3.40GHz", "ASUSTeK COMPUTER INC. PRIME B250M-PLUS"),
            *([module("DDR4", 2133, 2133, "F4-3200C16-8GVKB")] * 2, Verdict.BELOW, 3200),
            "processor and chipset (i7-6700, B250) allow no more than 2133 MT/s",
        ),
        (
            *("Intel(R) Xeon(R) CPU E5-2630 v3 @ 2.40GHz", "MACHINIST X99"),
            *([module("DDR4", 1866, 2133, "R744G2133U1S-UO")] * 4, Verdict.BELOW, 2133),
            "the processor (E5-2630 v3) allows no more than 1866 MT/s",
        ),
        (
            *("Intel(R) Pentium(R) CPU G4400 @ 3.30GHz", "Gigabyte Technology Co., Ltd. H110M-S2-CF"),
            *([module("DDR4", 2133, 2133, "9905702-120.A00G")], Verdict.BELOW, 2666),
            "processor and chipset (G4400, H110) allow no more than 2133 MT/s",
        ),
        (
            *("Intel(R) Core(TM) i9-14900K", "ASUSTeK COMPUTER INC. PRIME Z790-P"),
            *([module("DDR5", 4800, 4800, "CMK192GX5M4B5200C38")] * 4, Verdict.BELOW, 5200),
            "",  # sold as a kit of four: XMP is off
        ),
        (
            *("13th Gen Intel(R) Core(TM) i9-13900K", "ASUSTeK COMPUTER INC. PRIME Z790-P"),
            *([module("DDR5", 4800, 4800, "F5-6000J3040G32G")] * 4, Verdict.BELOW, 6000),
            "4800 MT/s is more than the 3600 to 4400 MT/s that desktop processors guarantee",
        ),
        (
            *("AMD Ryzen 9 7950X 16-Core Processor", "ASUSTeK COMPUTER INC. TUF GAMING X670E-PLUS"),
            *([module("", 3600, 4800, "9905782-162.A00G")] * 4, Verdict.BELOW, 4800),
            "3600 to 4400 MT/s that desktop processors guarantee",
        ),
        (
            *("AMD Ryzen 5 2600 Six-Core Processor", "ASRock B450 Gaming K4"),
            *([module("DDR4", 2133, 2133, "8GBF1X08QFHH38-135-K")], Verdict.BELOW, 3200, ""),
        ),
        ("", "", [module("DDR3", 10431, 10431, "KHX1600C9D3/4G")], Verdict.UNKNOWN, 0, ""),
        ("", "", [module("DDR3", 6567, 6567, "KHX1600C9D3/4G")], Verdict.UNKNOWN, 0, ""),
        ("AMD Ryzen 7 7700X", "ASRock B650M", [module("DDR5", 5200, 5200, "TMXYZ24D884")] * 2, Verdict.SUSPECT, 0, ""),
        ("AMD Ryzen 7 7700X", "ASRock B650M", [module("DDR5", 5600, 5600, "TMXYZ24D884")] * 2, Verdict.SUSPECT, 0, ""),
        (
            "AMD Ryzen 7 9700X",
            "ASRock X870",
            [module("DDR5", 6400, 6400, "TMCX10G24D884GS")] * 2,
            Verdict.SUSPECT,
            0,
            "",
        ),
        (
            *("Intel(R) Core(TM) Ultra 7 165H", "LENOVO 21KVCTO1WW"),
            *([Module(65536, "LPDDR5", "CAMM", speed=7500, configured=6400)], Verdict.BELOW, 7500),
            "modules that are screwed on (CAMM2, LPCAMM2)",
        ),
        (
            *("Intel(R) Core(TM) Ultra 7 165H", "LENOVO 21KVCTO1WW"),
            [Module(65536, "LPDDR5", "Other", speed=7500, configured=6400, part_number="CT64G75C2LP5XG.M8A")],
            *(Verdict.BELOW, 7500, "modules that are screwed on (CAMM2, LPCAMM2)"),
        ),
    ],
)
def test_boxes_that_were_judged_wrongly(
    processor: str, board: str, modules: list[Module], verdict: Verdict, rated: int, words: str
) -> None:
    speed = judge(modules, processor, board)
    assert (speed.verdict, speed.rated) == (verdict, rated)
    assert words in speed.limit
    assert bool(words) == bool(speed.limit)


def test_a_profile_is_missed_where_processor_and_chipset_allow_more() -> None:
    kit = [module("DDR4", 2133, 2133, "F4-3200C16-8GVKB")] * 2
    assert judge(kit, "Intel(R) Core(TM) i7-6700 CPU @ 3.40GHz", "ASUSTeK COMPUTER INC. Z170-K").limit == ""
    # A Kaby Lake runs 2400 on the same chipset, which a setting reaches.
    assert judge(kit, "Intel(R) Core(TM) i7-7700 CPU @ 3.60GHz", "ASRock B250M Pro4").limit == ""
    assert judge(kit, "AMD Ryzen 5 3600 6-Core Processor", "ASUSTeK COMPUTER INC. PRIME A320M-K").limit == ""


def test_unknown_modules_that_run_as_fast_as_the_platform_allows_are_not_doubted() -> None:
    unknown = [module("DDR4", 2133, 2133, "atermiter")] * 2
    assert judge(unknown, "Intel(R) Core(TM) i5-6500 CPU @ 3.20GHz", "MSI H110M PRO-VH").verdict is Verdict.FULL
    assert judge(unknown, "Intel(R) Core(TM) i5-6500 CPU @ 3.20GHz", "ASUS Z170-A").verdict is Verdict.SUSPECT


def test_servers_are_not_measured_by_what_desktops_guarantee() -> None:
    eight = [module("DDR5", 4400, 4800, "M321R4GA3BB6-CQKET")] * 8
    speed = judge(eight, "Intel(R) Xeon(R) Gold 6430", "Supermicro X13DEI")
    assert "the processor (Gold 6430) allows no more than 4400 MT/s" in speed.limit
    unknown = judge([module("DDR5", 3600, 4800, "M321R4GA3BB6-CQKET")] * 8, "Intel(R) Xeon(R) 6980P", "Supermicro X14")
    assert "desktop" not in unknown.limit


def test_a_fast_kit_of_ddr4_is_known_where_dmidecode_does_not_know_ddr4() -> None:
    kit = [module("", 4000, 4000, "F4-4000C18-8GTZ")] * 2
    assert (judge(kit).verdict, judge(kit).rated) == (Verdict.FULL, 4000)
    slow = [module("", 2133, 2133, "F4-4000C18-8GTZ")] * 2
    assert (judge(slow).verdict, judge(slow).rated) == (Verdict.BELOW, 4000)
    assert judge([module("", 4800, 4800, "F5-6000J3636F16G")] * 2).rated == 6000


def test_modules_of_four_at_less_than_a_platform_guarantees_are_below() -> None:
    assert judge([module("DDR5", 2000, 4800, "F5-6000J3040G32G")] * 4).limit == ""
    assert "so this is normal" in judge([module("DDR5", 4400, 4800, "F5-6000J3040G32G")] * 4).limit
