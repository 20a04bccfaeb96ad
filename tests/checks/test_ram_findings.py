"""What an audit says of boxes whose RAM was judged wrongly: severity, numbers, cause and remedy, each in its words."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass

import pytest
from llamarig.checks.base import Finding
from llamarig.checks.box import Box
from llamarig.checks.memory import MemorySpeed
from llamarig.checks.report import lines
from llamarig.declare.rig import Rig
from llamarig.facts.ram import MemoryModules

PROFILE = "enable the memory profile in the BIOS setup"


@dataclass(frozen=True)
class Reported:
    """A box and its finding. ``says``: parts of it; ``never``: words that were wrong."""

    processor: str
    board: str
    part: str
    speeds: tuple[int, int]
    """MT/s configured and of the module itself, as dmidecode prints them."""
    severity: str
    says: tuple[str, ...]
    never: tuple[str, ...] = ()
    type: str = "DDR4"
    form: str = "DIMM"
    count: int = 2

    def finding(self) -> Finding:
        """By the real parser and the real check, with no declared speed."""
        found = MemoryModules().process(self.dmidecode().splitlines())
        declared = importlib.import_module("group_data.rtx4070").rig
        rig = Rig.model_validate({**declared, "host": {**declared["host"], "memory_mts": None}})
        (finding,) = MemorySpeed().look(rig, Box(ram=found))
        return finding

    def dmidecode(self) -> str:
        """The tables that tell of it."""
        configured, own = self.speeds
        maker, _, product = self.board.partition(" ")
        modules = "".join(
            f"Handle 0x00{40 + slot}, DMI type 17, 84 bytes\nMemory Device\n\tSize: 8 GB\n"
            f"\tForm Factor: {self.form}\n\tLocator: DIMM_{'AABB'[slot]}{1 + slot % 2}\n\tBank Locator: BANK {slot}\n"
            f"\tType: {self.type}\n\tSpeed: {own} MT/s\n\tPart Number: {self.part}\n"
            f"\tConfigured Memory Speed: {configured} MT/s\n\n"
            for slot in range(self.count)
        )
        return (
            "Handle 0x0002, DMI type 2, 15 bytes\nBase Board Information\n"
            f"\tManufacturer: {maker}\n\tProduct Name: {product}\n\n"
            "Handle 0x0004, DMI type 4, 48 bytes\nProcessor Information\n"
            f"\tVersion: {self.processor}\n\n{modules}"
        )


AM5, Z790 = ("AMD Ryzen 7 7700X 8-Core Processor", "ASRock B650M Pro RS"), "ASUSTeK PRIME Z790-P"
BOXES = {
    "B250M, i7-6700, a 3200 kit": Reported(
        "Intel(R) Core(TM) i7-6700 CPU @ 3.40GHz",
        "ASUSTeK PRIME B250M-PLUS",
        "F4-3200C16-8GVKB",
        (2133, 2133),
        "NOTE",
        ("at 2133 MT/s", "3200 MT/s", "processor and chipset (i7-6700, B250) allow no more than 2133 MT/s"),
        (PROFILE,),
    ),
    "Xeon E5-2630 v3": Reported(
        "Intel(R) Xeon(R) CPU E5-2630 v3 @ 2.40GHz",
        "MACHINIST X99",
        "R744G2133U1S-UO",
        (1866, 2133),
        "NOTE",
        ("2133 MT/s", "the processor (E5-2630 v3) allows no more than 1866 MT/s, so this is normal"),
        (PROFILE,),
        count=4,
    ),
    "a kit of four, i9-14900K": Reported(
        "Intel(R) Core(TM) i9-14900K",
        Z790,
        "CMK192GX5M4B5200C38",
        (4800, 4800),
        "WARNING",
        ("4 modules at 4800 MT/s", "5200 MT/s (part number CMK192GX5M4B5200C38)", PROFILE, "XMP"),
        ("normal",),
        type="DDR5",
        count=4,
    ),
    "four of 6000, i9-13900K": Reported(
        "13th Gen Intel(R) Core(TM) i9-13900K",
        Z790,
        "F5-6000J3040G32G",
        (4800, 4800),
        "NOTE",
        ("4800 MT/s is more than the 3600 to 4400 MT/s", "less than the 6000 MT/s", "its profile may be off", "try it"),
        ("normal",),
        type="DDR5",
        count=4,
    ),
    "out of spec, four at 3600": Reported(
        "AMD Ryzen 9 7950X 16-Core Processor",
        "ASUSTeK TUF GAMING X670E-PLUS",
        "9905782-162.A00G",
        (3600, 4800),
        "NOTE",
        ("4 modules at 3600 MT/s", "4800 MT/s (by the firmware for 9905782-162.A00G", "3600 to 4400 MT/s"),
        ("reports no speed",),
        type="<OUT OF SPEC>",
        count=4,
    ),
    "PNY": Reported(
        "AMD Ryzen 5 2600 Six-Core Processor",
        "ASRock B450 Gaming K4",
        "8GBF1X08QFHH38-135-K",
        (2133, 2133),
        "WARNING",
        ("3200 MT/s", "66 %"),
        ("names no speed",),
        count=1,
    ),
    "Kingston on a H110 with a G4400": Reported(
        "Intel(R) Pentium(R) CPU G4400 @ 3.30GHz",
        "Gigabyte H110M-S2-CF",
        "9905702-120.A00G",
        (2133, 2133),
        "NOTE",
        ("2666 MT/s", "processor and chipset (G4400, H110) allow no more than 2133 MT/s"),
        (PROFILE,),
        count=1,
    ),
    "DDR3 at 10431": Reported(
        *("AMD FX(tm)-8350", "ASUSTeK M5A97", "KHX1600C9D3/4G", (10431, 10431), "UNKNOWN"),
        ("not known", "no speed that such modules have"),
        ("10431",),
        type="DDR3",
    ),
    "DDR3 at 6567": Reported(
        *("AMD FX(tm)-8350", "ASUSTeK M5A97", "KHX1600C9D3/4G", (6567, 6567), "UNKNOWN"),
        ("not known", "no speed that such modules have"),
        ("6567",),
        type="DDR3",
    ),
    "DDR5 at 5200 of an unknown part": Reported(
        *(*AM5, "TMXYZ24D884", (5200, 5200), "NOTE"),
        ("2 modules at 5200 MT/s", "kits sold as 6000 to 8000 run without a profile", "host.memory_mts"),
        type="DDR5",
    ),
    "DDR5 at 5600 of an unknown part": Reported(
        *(*AM5, "TMXYZ24D884", (5600, 5600), "NOTE"),
        ("2 modules at 5600 MT/s", "kits sold as 6000 to 8000 run without a profile", "host.memory_mts"),
        type="DDR5",
    ),
    "TMCX10G24D884GS at 6400": Reported(
        *(*AM5, "TMCX10G24D884GS", (6400, 6400), "NOTE"),
        ("2 modules at 6400 MT/s", "kits sold as 6000 to 8000 run without a profile", "host.memory_mts"),
        type="DDR5",
    ),
    "LPCAMM2 of 7500 at 6400": Reported(
        *("Intel(R) Core(TM) Ultra 7 165H", "LENOVO 21KVCTO1WW", "CT64G75C2LP5XG.M8A", (6400, 7500), "NOTE"),
        ("1 module at 6400 MT/s", "7500 MT/s", "modules that are screwed on (CAMM2, LPCAMM2)"),
        ("soldered",),
        type="LPDDR5",
        form="Other",
        count=1,
    ),
}


@pytest.mark.parametrize("name", BOXES)
def test_the_finding_of_a_box_that_was_judged_wrongly(name: str) -> None:
    of = BOXES[name]
    finding = of.finding()
    text = re.sub(r"\s+", " ", " ".join(lines(finding)))
    assert finding.severity.name == of.severity, text
    assert [words for words in of.says if words not in text] == [], text
    assert [words for words in of.never if words in text] == [], text
    assert finding.fails is (of.severity == "WARNING")
