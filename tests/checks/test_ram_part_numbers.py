"""Ratings read from part numbers of all makers; a part number that names no speed is not guessed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamarig.checks.ram_part_numbers import rating, standard_speed

LABELLED_BY_HAND = [
    line.split(" ", 2)
    for line in (Path(__file__).parent / "data/part_numbers.txt").read_text().splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize(("ddr", "mts", "part"), LABELLED_BY_HAND, ids=[part for *_, part in LABELLED_BY_HAND])
def test_part_numbers_the_rules_were_not_written_with(ddr: str, mts: str, part: str) -> None:
    found = rating(part, int(ddr))
    assert found is not None
    assert found.mts == int(mts)


@pytest.mark.parametrize(
    ("part", "ddr", "mts"),
    [
        # In the makers' formats, by their catalogues; not checked part by part.
        ("F5-8000J3848H24G", 5, 8000),
        ("F4-3600C16-16GTZNC", 4, 3600),
        ("CMP64GX5M2B6600C32", 5, 6600),
        ("CMK16GX4M1A2400C14", 4, 2400),
        ("KF564C32-16", 5, 6400),
        ("KF437C19BB/8", 4, 3733),
        ("HX434C16FB3/8", 4, 3466),
        ("KVR56U46BD8-32", 5, 5600),
        ("KVR26N19S8/8", 4, 2666),
        ("KSM48E40BD8KM-32HM", 5, 4800),
        ("CT2K16G56C46U5", 5, 5600),
        ("CP2K16G60C36U5B", 5, 6000),
        ("CT16G4DFRA32A", 4, 3200),
        ("BL2K8G51C19U4B", 4, 5100),
        ("BLM2K8G44C19U4B", 4, 4400),
        ("PVV532G620C40K", 5, 6200),
        ("PVS416G413C8K", 4, 4133),
        ("TEAMGROUP-UD5-7200", 5, 7200),
        ("AX5U6400C3216G-DCLARBK", 5, 6400),
        ("M323R4GA3BB0-CQK", 5, 4800),
        ("HMCG78AGBUA081N", 5, 5600),
        ("MTC16C2085S1UC56BG1", 5, 5600),
        ("M393A4K40DB3-CWE    ", 4, 3200),
        ("M378B5173QH0-YK0", 3, 1600),
        ("HMT351U6CFR8C-H9", 3, 1333),
        ("16JTF51264AZ-1G4M1", 3, 1333),
        ("8KTF51264HZ-1G6E1", 3, 1600),
        ("36JSZF51272PZ1G4G1", 3, 1333),
        ("NT2GC64B88B0NF-CG", 3, 1333),
        ("M2F4G64CC88D7N-DI", 3, 1600),
        ("EBJ21UE8BDF0-DJ-F", 3, 1333),
        ("CT102464BF160B.C16", 3, 1600),
        ("CT51264BA1339.M16F", 3, 1333),
        ("CT102464BD160", 3, 1600),  # cut off
        ("CMZ8GX3M2A160", 3, 1600),  # cut off
        ("BLE8G3D1869DE1TX0.", 3, 1866),
        ("KVR16N11/8", 3, 1600),
        ("AE34G1339U1", 3, 1333),
        ("R534G1601U1S", 3, 1600),
        ("CMZ4GX3M2A2000C10", 3, 2000),
        ("TS512MLK64V6H", 3, 1600),
        ("CMK5X32G2B60C40A2", 5, 6000),
        ("560C36-16", 5, 6000),  # KF560C36-16 without its first letters
        ("LD5U16G72C34LA", 5, 7200),
        ("LD4S16G32C22ST", 4, 3200),
        ("MRX4U360GKKP32G", 4, 3600),
        ("8GBF1X08QFHH38-135-K", 4, 3200),
        ("8GBF1X08LFHH35-12-K", 4, 2666),
        ("CT64G75C2LP5XG.M8A", 5, 7500),
    ],
)
def test_the_spelling_of_each_maker(part: str, ddr: int, mts: int) -> None:
    found = rating(part, ddr)
    assert found is not None
    assert found.mts == mts
    unknown_generation = rating(part)  # an old dmidecode prints DDR5 as <OUT OF SPEC>
    assert unknown_generation is not None
    assert unknown_generation.mts == mts


@pytest.mark.parametrize(
    "part",
    [
        *("", "Unknown", "9905713-025.A00G", "99U5702-094.A00G", "M428066", "123456789012345678", "DDR4", "CMU16GX4"),
        *("KF999", "F4-", "M378A1K43CB2", "HMA81GU6", "4ATF1G64HZ", "atermiter"),
    ],
)
def test_a_part_number_without_a_speed_has_no_rating(part: str) -> None:
    assert rating(part, 4) is None


def test_a_stock_number_takes_the_speed_of_the_spd() -> None:
    for part in ("99U5000-054.A00LF", "9905000-120.A00G", "KP223C-ELD"):
        found = standard_speed(part, 1600, 3)
        assert found is not None
        assert (found.mts, found.profile, found.from_firmware) == (1600, False, True)
    assert standard_speed("99U5000-054.A00LF", 1067, 3) is None  # faster modules are slowed down to it
    rounded = standard_speed("99U5000-095.A00G", 2667, 4)
    assert rounded is not None
    assert rounded.mts == 2666
    assert standard_speed("atermiter", 2400, 4) is None  # no stock number
    assert standard_speed("99U5000-054.A00LF", 1600, None) is None


def test_a_frequent_stock_number_has_its_own_speed() -> None:
    """Whatever the firmware reports, which is often the speed that it has set."""
    found = standard_speed("9905702-120.A00G", 2133, 4)
    assert found is not None
    assert (found.mts, found.profile, found.from_firmware) == (2666, False, False)


def test_a_part_number_of_another_generation_is_not_trusted() -> None:
    assert rating("F5-6000J3636F16G", 4) is None


@given(st.text(max_size=40), st.sampled_from([None, 3, 4, 5, 6]))
def test_any_text_is_read_without_an_error(part: str, ddr: int | None) -> None:
    found = rating(part, ddr)
    assert found is None or 800 <= found.mts <= 10000


@given(st.from_regex(re.compile(r"\A(F[45]-|CM[A-Z]{1,2}\d+GX[45]M|KF[45]|CT\d+G|PV|M[34]\d\dA)[A-Z0-9-]{0,16}\Z")))
def test_any_text_like_a_maker_s_is_read_without_an_error(part: str) -> None:
    found = rating(part, 4)
    assert found is None or 800 <= found.mts <= 10000
