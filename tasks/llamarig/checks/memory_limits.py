"""How fast the processor and the board of a box let its RAM run, where no setting goes beyond that.

Sources: the memory types of each processor in Intel ARK and on AMD's product pages; Intel's comparison of chipsets
("Supports Memory Overclocking"). ``tests/facts/ram_statistics.py`` compares the tables with the boxes in linuxhw/DMI.

Boards with a Z or X chipset, Intel's B and H chipsets from B560 and B660 on, and AMD's for Ryzen let a profile (XMP,
EXPO) exceed what the processor's maker states, so they have no limit here. Boards of makers of whole computers do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryLimit:
    """``mts``: the fastest for RAM, in MT/s; ``processor``: its model; ``setter``: what sets it, and a verb."""

    mts: int
    processor: str
    setter: str


_LOCKED_CHIPSET = re.compile(
    # In the names of boards: H110M-R, PRIME B360M-A, GA-B85M-D3H, P8H61-M LX, DH61CR.
    r"(?<![A-Z])(?:D(?=[HBQ]))?([BQ]65|[HQ]67|H61|[BQ]75|[HQ]77|H81|[BQ]85|[HQ]87|H97"  # DDR3
    r"|[HBQ]1[157]0|[HBQ]2[57]0|H310|B36[05]|[HQ]370|[HB]4[167]0|Q470|H510|Q570|H610|Q670)(?!\d)"
)

_COMPUTER_MAKERS = re.compile(r"(Dell Inc|Hewlett-Packard|HP|LENOVO|FUJITSU|Acer)\b")
"""Makers whose boards have no setting for a profile: of 5,600 of their computers in linuxhw/DMI 5 exceed the limit."""

# A row's last word is whether the limit holds on every board; other limits hold with a locked chipset or in a computer
# of the makers above.
_PROCESSORS: tuple[tuple[re.Pattern[str], dict[int, int], bool], ...] = tuple(
    (re.compile(pattern), limits, everywhere)
    for pattern, limits, everywhere in (
        # Xeon E5 of four generations: the memory multiplier of the E5-2600 and E5-4600 is fixed.
        (r"E5-[24]6(?:0[39])L? v4", {4: 1866}, True),
        (r"E5-[24]6(?:[234]0|18)L? v4", {4: 2133}, True),
        (r"E5-[24]6\d\d\w? v4", {4: 2400}, True),
        (r"E5-[24]60[39]L? v3", {4: 1600}, True),
        (r"E5-[24]6(?:[234]0|08|18)L? v3", {4: 1866}, True),
        (r"E5-[24]6\d\d\w? v3", {3: 1866, 4: 2133}, True),
        (r"E5-[24]60[39]L? v2", {3: 1333}, True),
        (r"E5-[24]6[234]0L? v2", {3: 1600}, True),
        (r"E5-[24]6\d\d\w? v2", {3: 1866}, True),
        (r"E5-[24]60[39]L?\b(?! v)", {3: 1066}, True),
        (r"E5-[24]6[234]0L?\b(?! v)", {3: 1333}, True),
        (r"E5-[24]6\d\d\w?\b(?! v)", {3: 1600}, True),
        (r"E5-16\d\d v2", {3: 1866}, False),
        (r"E5-16\d\d v3", {4: 2133}, False),
        (r"E5-16\d\d v4", {4: 2400}, False),
        # Xeon for Core's sockets.
        (r"E3-12\d\dL? V2", {3: 1600}, False),
        (r"E3-12\d\dL? v[34]", {3: 1600}, False),
        (r"E3-12\d\dL? v5", {3: 1866, 4: 2133}, False),
        (r"E3-12\d\dL? v6", {3: 1866, 4: 2400}, False),
        (r"\bE-2[12]\d\d", {4: 2666}, False),
        # Xeon Scalable, five generations, and the workstation models of the fourth that cannot be overclocked.
        (r"Bronze 31\d\d", {4: 2133}, True),
        (r"(?:Gold 61|Platinum 81|Gold 52|Silver 43|Bronze 33)\d\d|Gold 5122", {4: 2666}, True),
        (r"(?:Silver 41|Gold 51|Bronze 32|Silver 42)\d\d", {4: 2400}, True),
        (r"(?:Gold 62|Platinum 82|Gold 53)\d\d", {4: 2933}, True),
        (r"(?:Gold 63|Platinum 83)\d\d", {4: 3200}, True),
        (r"(?:Bronze 34|Silver 44)\d\d", {5: 4000}, True),
        (r"(?:Gold 54|Bronze 35|Silver 45)\d\d|Gold 64(?:21|30)|w3-24\d\d\b", {5: 4400}, True),
        (r"(?:Gold 64|Platinum 84|Gold 55|Max 94)\d\d|Gold 653[04]|w[579]-[23]4\d\d\b", {5: 4800}, True),
        (r"Gold 65\d\d", {5: 5200}, True),
        (r"Platinum 85\d\d", {5: 5600}, True),
        (r"EPYC 7\d\d1", {4: 2666}, True),
        (r"EPYC 7\w\w[23]", {4: 3200}, True),
        (r"EPYC [89]\w\w4", {5: 4800}, True),
        (r"EPYC 9\w\w5", {5: 6400}, True),
        # Pentium and Celeron; on small boards the processor is soldered.
        (r"\b(?:J[12]|N2)\d{3}\b", {3: 1333}, True),
        (r"\b[JN]3[34][35]\d\b", {3: 1866}, True),
        (r"\b[JN]3\d{3}\b", {3: 1600}, True),
        (r"\b[JN]4\d\d\d\b", {4: 2400}, True),
        (r"\b[JN]6[24]\d\d\b", {4: 3200}, True),
        (r"\b[JN][56]\d\d\d\b", {4: 2933}, True),
        (r"\b(?:N9[57]|N[12]00|N150|i3-N3\d\d)\b", {4: 3200, 5: 4800}, True),
        (r"\bG(?:[4-8]\d\d|1[68]\d\d|20\d\d|32\d\d)\b", {3: 1333}, False),
        (r"\bG(?:21|3[34])\d\d", {3: 1600}, False),
        (r"\bG(?:39\d\d|44\d\d|45[0-2]\d)", {3: 1866, 4: 2133}, False),
        (r"\bG(?:45[6-9]\d|46\d\d|49\d\d|5[4-6]\d\d)", {3: 1866, 4: 2400}, False),
        (r"\bG(?:59|6[4-6])\d\d", {4: 2666}, False),
        (r"\bG(?:69|74)\d\d", {4: 3200, 5: 4800}, False),
        # Core of the second to the fifteenth generation. Suffixes of laptops' processors, where the limit always holds,
        # except for HK and HX.
        (r"i[3579]-2\d{3}(?!\d)\w*", {3: 1333}, False),
        (r"i[3579]-[345]\d{3}(?!\d|X|K\b)\w*|i[3579]-[34][5-7][79]0K", {3: 1600}, False),
        (r"i[357]-7\d{3}[UY]", {3: 1866, 4: 2133}, True),
        (r"i[357]-8\d{3}[UY]", {4: 2400}, True),
        (r"i[357]-10\d{3}[UY]", {4: 2666}, True),
        (r"i[3579]-6[0-7]\d\d(?!\d|X)\w*", {3: 1866, 4: 2133}, False),
        (r"i[3579]-7[0-7]\d\d(?!\d|X)\w*", {3: 1866, 4: 2400}, False),
        (r"i3-[89]\d{3}(?!\d)\w*", {4: 2400}, False),
        (r"i[579]-[89]\d{3}(?!\d|X)\w*", {4: 2666}, False),
        (r"i[35]-10[1-6]\d\d(?!\w*G)\w*", {4: 2666}, False),
        (r"i[3579]-10[7-9]\d\d(?!X|\w*G)\w*", {4: 2933}, False),
        (r"i[3579]-1(?:0\d\d|1)\d{1,3}G\d", {4: 3200}, True),
        (r"i[3579]-1[23]\d\d[UP]\b", {4: 3200, 5: 5200}, True),
        (r"i[3579]-11\d{3}\w*", {4: 3200}, False),
        (r"i[3579]-12\d{3}\w*|i3-1[34]\d{3}|i5-1[34][45]\d\d", {4: 3200, 5: 4800}, False),
        (r"i[579]-1[34]\d{3}\w*", {4: 3200, 5: 5600}, False),
        (r"Ultra [3579] (?:PRO )?2\d\d", {5: 6400}, False),
        # AMD for AM4 and AM5. The memory multiplier of Bristol Ridge ends at 2400.
        (r"A(?:6|8|10|12)-9\d{3}|A10-8770|Athlon\W+X4 9\d0", {4: 2400}, True),
        (r"Ryzen \w+ (?:PRO )?[23]\d{3}U", {4: 2400}, True),
        (r"Ryzen \w+ (?:PRO )?1\d{3}", {4: 2666}, False),
        (r"Ryzen \w+ (?:PRO )?(?:2\d{3}|3\d00GE?\b)", {4: 2933}, False),
        (r"Ryzen \w+ (?:PRO )?[345]\d{3}", {4: 3200}, False),
        (r"Ryzen \w+ (?:PRO )?[78]\d{3}", {5: 5200}, False),
        (r"Ryzen \w+ (?:PRO )?9\d{3}", {5: 5600}, False),
    )
)

_LAPTOP = re.compile(r"i[3579]-\d{4,5}(?:[UPYH]|[MQ][MQX]?|HQ)$")


def memory_limit(processor: str, board: str, generation: int | None) -> MemoryLimit | None:
    """The limit of a box; None if there is none, or none is known.

    :param processor: its name, as the firmware reports it
    :param board: maker and name of the board, as the firmware reports them
    :param generation: DDR generation of the modules
    """
    name = re.sub(r"\((?:R|TM)\)|CPU|@.*", "", processor)
    for pattern, limits, everywhere in _PROCESSORS:
        if not (match := pattern.search(name)):
            continue
        mts = limits.get(generation or 0)
        chipset = _LOCKED_CHIPSET.search(board)
        maker = _COMPUTER_MAKERS.match(board)
        if mts is None:
            return None
        if everywhere or _LAPTOP.search(match[0]):
            return MemoryLimit(mts, match[0], f"the processor ({match[0]}) allows")
        if chipset:
            return MemoryLimit(mts, match[0], f"processor and chipset ({match[0]}, {chipset[1]}) allow")
        return MemoryLimit(mts, match[0], f"processor and board ({match[0]}, {board}) allow") if maker else None
    return None
