"""Reads the rated speed of a memory module from its part number, which each maker writes differently.

The "Speed" in firmware tables is no rating: for most kits it is the JEDEC fallback of the SPD, or a BIOS setting. The
rules here describe how makers write speeds rather than list products, so that they also read future modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from llamarig.checks.ram_stock_numbers import STOCK_NUMBERS

_DDR3 = {800, 1066, 1333, 1600, 1800, 1866, 2000, 2133, 2200, 2250, 2400, 2600, 2666, 2800, 2933}
_DDR4 = {
    *(1600, 1866, 2133, 2400, 2666, 2800, 2933, 3000, 3100, 3200, 3300, 3333, 3400, 3466, 3600, 3666, 3733, 3800, 3866),
    *(4000, 4133, 4200, 4266, 4300, 4333, 4400, 4500, 4600, 4700, 4800, 4866, 5000, 5066, 5100, 5133, 5333),
}
_DDR5 = {*range(4000, 10001, 200), 5333, 5866, 6933, 7500, 8266, 8533, 9066, 9333}
_RATES = {3: _DDR3, 4: _DDR4, 5: _DDR5}
"""Speeds in MT/s of modules sold in each DDR generation; any other number in a part number is not a speed."""

_TWO_DIGITS = {
    4: {21: 2133, 24: 2400, 26: 2666, 28: 2800, 29: 2933, 33: 3333, 34: 3466, 37: 3733, 38: 3866, 41: 4133, 42: 4266},
    3: {10: 1066, 13: 1333, 16: 1600, 18: 1866, 21: 2133, 24: 2400, 26: 2666, 28: 2800, 29: 2933},
    5: {},
}
"""Two-digit forms that are not the first two digits of the speed."""

_THREE_DIGITS = {
    **{106: 1066, 133: 1333, 186: 1866, 213: 2133, 266: 2666, 293: 2933},
    **{333: 3333, 346: 3466, 373: 3733, 386: 3866, 413: 4133, 426: 4266, 433: 4333},
}
"""Three-digit forms that are not the first three digits of the speed."""

_PC_BANDWIDTH = {
    **{8500: 1066, 10600: 1333, 10666: 1333, 12800: 1600, 14900: 1866},
    **{16000: 2000, 17000: 2133, 19200: 2400, 21300: 2666},
}
"""Module bandwidth in MB/s (PC3-12800) given instead of the speed: 8 bytes a transfer."""

_JEDEC = {3: (1333, 1600, 1866), 4: (2133, 2400, 2666, 2933, 3200), 5: (4800, 5200, 5600, 6400)}
"""Standard speeds in MT/s of modules without a profile. DDR3-800 and -1066 are left out: faster modules are slowed to
them."""

_STOCK_NUMBER = re.compile(
    r"^(99[0-9UP]\d{4}-\d{3}"  # Kingston: 99U5471-054.A00LF, in modules without a product name
    r"|K[A-Z0-9]{4,5}-[A-Z]{3}$|HP\d{6}-"  # Kingston, for makers of computers: KP223C-ELD, HP698650-154-KEB
    r"|S[HFG]\d{4})"  # SMART: SH564128FH8N6TNSQG, where its speed's letter is not known
)

# JEDEC speed bins by the suffixes of the chip makers (their part-number decoders).
_SAMSUNG_DDR3 = {"F7": 1066, "F8": 1066, "H9": 1333, "K0": 1600, "MA": 1866, "NB": 2133}
_SAMSUNG = {"PB": 2133, "RC": 2400, "TD": 2666, "VF": 2933, "WE": 3200, "QK": 4800, "WM": 5600, "CP": 6400}
_HYNIX_DDR3 = {"G7": 1066, "H8": 1333, "H9": 1333, "PA": 1600, "PB": 1600, "RD": 1866, "TE": 2133}
_HYNIX_DDR4 = {"TF": 2133, "UH": 2400, "VK": 2666, "WM": 2933, "XN": 3200}
_HYNIX_DDR5 = {"E": 4800, "G": 5600, "H": 6400}
_MICRON_DDR3 = {"1G0": 1066, "1G1": 1066, "1G3": 1333, "1G4": 1333, "1G5": 1600, "1G6": 1600, "1G9": 1866}
_MICRON = {"1G6": 1600, "1G9": 1866, "2G1": 2133, "2G3": 2400, "2G4": 2400, "2G6": 2666, "2G9": 2933, "3G2": 3200}
_CRUCIAL_DDR3 = {"106": 1066, "133": 1333, "160": 1600, "186": 1866}
_CRUCIAL_VALUE = {"213": 2133, "24A": 2400, "266": 2666, "293": 2933, "32A": 3200}
_NANYA_DDR3 = {"BE": 1066, "CF": 1333, "CG": 1333, "DG": 1600, "DH": 1600, "DI": 1600, "EK": 1866, "FK": 2133}
_NANYA = {"GX": 2133, "FL": 2400, "HR": 2666, "IX": 2933, "JR": 3200}
_KINGMAX = {"E": 1066, "F": 1333, "G": 1600}
_SMART = {"H": 1333, "N": 1600, "K": 2400, "L": 2666}
_TRANSCEND_DDR3 = {"1": 1066, "3": 1333, "6": 1600, "8": 1866}
_TRANSCEND_DDR4 = {"1": 2133, "4": 2400, "6": 2666, "2": 3200}
_PNY = {"L": 2666, "Q": 3200, "R": 3600}
"""From the speeds of the boxes in linuxhw/DMI: no guide of the maker's was available."""
_ELPIDA = {"AE": 1066, "AG": 1066, "DG": 1333, "DJ": 1333, "GL": 1600, "GN": 1600, "JS": 1866}


@dataclass(frozen=True)
class Rating:
    """``mts``: rated MT/s; ``generation``: 3, 4 or 5, None if the part number does not tell.

    ``profile``: whether it needs an XMP/EXPO profile to reach that, None if the part number does not tell.
    ``from_firmware``: the speed is that of the module's own table, as the part number is one of a module without a
    profile.
    """

    mts: int
    generation: int | None = None
    profile: bool | None = None
    from_firmware: bool = False


_Reader = Callable[[re.Match[str]], Rating | None]


def rating(part_number: str, generation: int | None = None) -> Rating | None:
    """The rating in a part number; None if it names no speed with certainty.

    :param generation: DDR generation by the firmware; None if unknown
    """
    part = re.sub(r"\s+", " ", part_number.strip().upper())
    for pattern, read in _MAKERS:
        if match := pattern.search(part):
            # A part number that matches a maker's pattern is of that maker: if it does not decode, nothing is guessed.
            found = read(match)
            return found if found is not None and _possible(found, generation) else None
    mts = _spelled_out(part, generation)
    return Rating(mts, generation) if mts is not None else None


def _possible(found: Rating, generation: int | None) -> bool:
    known = found.generation or generation
    if found.generation and generation and found.generation != generation:
        return False
    return found.mts in (_RATES[known] if known in _RATES else _DDR3 | _DDR4 | _DDR5)


def standard_speed(part_number: str, spd_mts: int, generation: int | None) -> Rating | None:
    """The rating of a module whose part number names no speed, but is one that a maker uses for modules without a
    profile.

    The speed of such a module is that of its SPD, which the firmware reports as the module's own. Some firmware reports
    the speed that it has set instead, so the speed of frequent part numbers is taken from a table.

    :param spd_mts: MT/s that the firmware reports for the module, whatever it runs at
    """
    part = part_number.strip().upper()
    if generation is None or not is_stock_number(part):
        return None
    if known := STOCK_NUMBERS.get(part[:11]):
        return Rating(known, generation, profile=False)
    mts = next((mts for mts in _JEDEC.get(generation, ()) if abs(mts - spd_mts) <= 1), None)
    return None if mts is None else Rating(mts, generation, profile=False, from_firmware=True)


def of_a_kit_of_four(part_number: str) -> bool:
    """Whether it is sold as one of four or eight modules: CMK192GX5M4B5200C38, CT4K16G56C46U5, KF560C36BBEK4."""
    return re.match(r"CM[A-Z]{1,3}\d+GX5M[48]|C[TP][48]K|KF\S+K[48]\b", part_number.strip().upper()) is not None


def is_stock_number(part_number: str) -> bool:
    """Whether it is a number under which a maker sells modules without a profile, and which names no speed."""
    return _STOCK_NUMBER.match(part_number) is not None


def is_sold(mts: int, generation: int | None) -> bool:
    """Whether modules of a generation are sold at this speed, rounded up or down."""
    return generation in _RATES and any(near in _RATES[generation] for near in (mts, mts - 1, mts + 1))


def _spelled_out(part: str, generation: int | None) -> int | None:
    """The one number in a part number that is a speed of its generation; None if there are none or several."""
    rates = _RATES[generation] if generation in _RATES else _DDR3 | _DDR4 | _DDR5
    found = {int(number) for number in re.findall(r"(?<!\d)\d{4,5}(?!\d)", part)}
    # 2667, 2134, 3201: the same speed, rounded the other way.
    speeds = {near for number in found for near in (number, number - 1, number + 1) if near in rates}
    if not speeds and generation in (3, None):
        speeds = {_PC_BANDWIDTH[number] for number in found if number in _PC_BANDWIDTH}
    return speeds.pop() if len(speeds) == 1 else None


def _short(digits: str, generation: int) -> int:
    """26 -> 2666, 36 -> 3600, 60 -> 6000; three digits are tens of MT/s."""
    number = int(digits)
    if len(digits) == 3:
        return _THREE_DIGITS.get(number, number * 10)
    return _TWO_DIGITS[generation].get(number, number * 100)


def _abbreviated(profile: bool | None = None, generation: int | None = None) -> _Reader:
    """A reader for patterns with a group ``mts`` of two to four digits, and optionally a group ``ddr``."""

    def read(match: re.Match[str]) -> Rating | None:
        groups = match.groupdict()
        ddr = generation or (int(groups["ddr"]) if groups.get("ddr") else None)
        digits = groups["mts"]
        if len(digits) == 4:
            return Rating(int(digits), ddr, profile)
        return Rating(_short(digits, ddr), ddr, profile) if ddr in _RATES else None

    return read


def _named(table: dict[str, int], generation: int | None = None, *, profile: bool = False) -> _Reader:
    """A reader for patterns with a group ``bin``, to be looked up in a table: of JEDEC bins, which need no profile."""

    def read(match: re.Match[str]) -> Rating | None:
        mts = table.get(match["bin"])
        return None if mts is None else Rating(mts, generation or _generation_of(mts), profile)

    return read


def _generation_of(jedec_mts: int) -> int:
    return 5 if jedec_mts >= 4000 else 4


def _amd(match: re.Match[str]) -> Rating:
    # Radeon Memory: the fourth digit is the timing (1601 and 1609 are both 1600), and 260 means 2666.
    return Rating(2666 if match["mts"] == "260" else _short(match["mts"], int(match["ddr"])), int(match["ddr"]))


_MAKERS: tuple[tuple[re.Pattern[str], _Reader], ...] = tuple(
    (re.compile(pattern), read)
    for pattern, read in (
        # G.Skill: F4-3600C16-16GTZNC, F5-6000J3636F16G; the older F3-12800CL9 names the bandwidth instead.
        (r"^F(?P<ddr>[45])-(?P<mts>\d{4,5})[A-Z]", _abbreviated(profile=True)),
        # Corsair: CMK32GX5M2B6000C36, CMSX16GX4M1A3200C22, CM4X16GC3000C16K4D, CMWX8GF3200Z22W4.
        (r"^CM[A-Z]{1,3}\d+GX(?P<ddr>[345])M\d{1,2}[A-Z]\d?(?P<mts>\d{4})[CZ]\d", _abbreviated(profile=True)),
        # Some firmware truncates the part number: CMZ8GX3M2A160, CT102464BD160.
        (r"^CM[A-Z]{1,3}\d+GX(?P<ddr>[345])M\d{1,2}[A-Z](?P<mts>\d{2,3})$", _abbreviated(profile=True)),
        (r"^CM(?P<ddr>[45])X\d+G[A-Z](?P<mts>\d{4})[CZ]", _abbreviated(profile=True)),
        (r"^CMWX\d+G[A-Z](?P<mts>\d{4})[CZ]", _abbreviated(profile=True, generation=4)),
        (r"^CM[A-Z]{1,2}(?P<ddr>5)[SX]\d+G\d[A-Z](?P<mts>\d{2})[CZ]\d", _abbreviated(profile=True)),
        # Kingston FURY and HyperX: KF560C32, KF436C16, HX432C16; KHX2666C15D4 and KF3200C16D4 spell it out.
        (r"^KF(?P<ddr>[345])(?P<mts>\d{2})[CRS]", _abbreviated(profile=True)),
        (r"^HX(?P<ddr>[345])(?P<mts>\d{2})[CLS]", _abbreviated(profile=True)),
        (r"^K(?:HX|F)(?P<mts>\d{4})C\d+D(?P<ddr>[345])", _abbreviated(profile=True)),
        (r"^KHX(?P<mts>\d{4})C\d", _abbreviated(profile=True)),
        # Kingston ValueRAM, server and OEM: KVR16N11, KVR56U46, KSM32ES8, KCP426; CBD26D4S9, HP32D4U8, CBD56S46.
        (r"^KVR(?P<mts>1[0368])[A-Z]", _abbreviated(profile=False, generation=3)),
        (r"^K(?:VR|SM)(?P<mts>2[1469]|32)[A-Z]", _abbreviated(profile=False, generation=4)),
        (r"^K(?:VR|SM)(?P<mts>4[48]|5[26]|64)[A-Z]", _abbreviated(profile=False, generation=5)),
        (r"^KCP(?P<ddr>[345])(?P<mts>\d{2})", _abbreviated(profile=False)),
        (r"^[A-Z]{2,4}(?P<mts>2[1469]|32)D4", _abbreviated(profile=False, generation=4)),
        (r"^HP(?P<mts>3[0-9]|4[0-9])D4", _abbreviated(profile=True, generation=4)),
        (r"^[A-Z]{2,4}(?:\d+X\d+)?D3[A-Z]{1,2}(?P<mts>1[0368])[A-Z]\d", _abbreviated(profile=False, generation=3)),
        (r"^[A-Z]{2,4}(?P<mts>1[0368])D3[LUSRE]", _abbreviated(profile=False, generation=3)),
        (r"^[A-Z]{2,4}(?P<mts>48|52|56|64)[SURE]\d\d[A-Z]", _abbreviated(profile=False, generation=5)),
        # Crucial: CT51264BA1339, CT102464BF160B, CT8G3S186DM; the fourth character is the CAS latency in hexadecimal.
        (r"^(?:[CS]T|RM)\d+[A-Z]{2}(?P<bin>106|133|160|186)(?:[0-9A-F](?![0-9])|$)", _named(_CRUCIAL_DDR3, 3)),
        (r"^CT\d+G3[A-Z]{1,2}(?P<bin>106|133|160|186)[0-9A-F]", _named(_CRUCIAL_DDR3, 3)),
        # Crucial: CT16G4DFD8266, CP16G4DFRA32A; CT16G56C46U5; Ballistix BLS8G4D240FSB, BL16G36C16U4R.
        (r"^C[TP](?:\d+K)?\d+G4[A-Z]{2}[A-Z][A-Z0-9](?P<bin>213|24A|266|293|32A)", _named(_CRUCIAL_VALUE)),
        (r"^C[TP](?:\d+K)?\d+G(?P<mts>\d{2})C\d\d[A-Z]+(?P<ddr>5)", _abbreviated()),
        (r"^CT\d+G(?P<mts>\d\d)C\dLP(?P<ddr>5)", _abbreviated(profile=False)),  # LPCAMM2: CT64G75C2LP5XG
        (r"^BL[A-Z]?(?:\d+K)?\d+G(?P<mts>\d{2})C\d\d[A-Z]+(?P<ddr>[45])", _abbreviated(profile=True)),
        (r"^BL[A-Z]\d*K?\d+G(?P<ddr>4)[DS](?P<mts>240|213|\d{2})", _abbreviated()),
        (r"^BL[A-Z]\d*K?\d+G(?P<ddr>3)[DNS](?P<mts>\d{2})", _abbreviated()),
        # Micron: 16ATF2G64AZ-3G2J1, MTA18ADF2G72AZ-2G6E1; DDR5 MTC16C2085S1UC48BA1; DDR3 begins with J, or K at 1.35 V.
        (r"^(?:MT)?\d+[JKG][A-Z]{2,3}\d\w*?-?(?P<bin>1G\d)", _named(_MICRON_DDR3, 3)),
        (r"^(?:MTA)?\d+[A-Z]{3}\w+-(?P<bin>\dG\d)", _named(_MICRON, 4)),
        (r"^(?:MT)?C\d+[A-Z]\d+S\d[A-Z]{2}(?P<mts>\d{2})", _abbreviated(profile=False, generation=5)),
        # Samsung: M378B5173QH0-CK0, M471B5173DB0-YK0 (C: 1.5 V, Y: 1.35 V); M378A2K43EB1-CWE, M425R2GA3BB0-CWMOD.
        (r"^M[34]\d\dB\w+-[A-Z]?(?P<bin>[A-Z][A-Z0-9])", _named(_SAMSUNG_DDR3, 3)),
        (r"^(?:M[34])?\d\d[AR]\w+-C(?P<bin>[A-Z]{2})", _named(_SAMSUNG)),
        # SK hynix: HMT451U6BFR8A-PB; HMA81GU6JJR8N-VK; HMCG88AGBUA084N, where the letter before B is the speed.
        (r"^[A-Z]MT\d\w+-(?P<bin>[A-Z][A-Z0-9])", _named(_HYNIX_DDR3, 3)),
        (r"^HMA[A0-9]\w+-(?P<bin>[A-Z]{2})", _named(_HYNIX_DDR4, 4)),
        (r"^(?:HM)?CG\d{2}[A-Z](?P<bin>[A-Z])B", _named(_HYNIX_DDR5, 5)),
        # Nanya and Elixir: NT4GC64B8HG0NF-DI, M2F4G64CB8HG5N-CG; NT8GA64D88CX3S-JR. Elpida: EBJ41UF8BDW0-GN-F.
        (r"^NT\d+GA\d+D\w+-(?P<bin>[A-Z]{2})", _named(_NANYA, 4)),
        (r"^(?:NT\d+GC|M2[A-Z]\d+G)\w+-(?P<bin>[A-Z]{2})", _named(_NANYA_DDR3, 3)),
        (r"^EBJ\w+-(?P<bin>[A-Z]{2})", _named(_ELPIDA, 3)),
        # ADATA: AX4U360038G18A, AX5U6000C3032G, AD4U2666; OEM AO1P26KC8T1.
        (r"^A[DX](?P<ddr>[345])[USRP](?P<mts>\d{4})", _abbreviated()),
        (r"^A[A-Z]\dP(?P<mts>2[1469]|32)[A-Z]C\d", _abbreviated(profile=False, generation=4)),
        (r"^A[A-Z]\d[A-Z](?P<mts>48|56)[A-Z]C\w+-", _abbreviated(profile=False, generation=5)),
        # Patriot: PSD48G266681S, PVS416G320C6K, PVV532G620C40K.
        (r"^PSD(?P<ddr>[345])\d{1,2}G(?P<mts>\d{4})", _abbreviated(profile=False)),
        (r"^P[A-Z]{2,4}(?P<ddr>[45])\d{1,2}G(?P<mts>\d{3})C", _abbreviated(profile=True)),
        # PNY: 8GBF1X08QFHH38-135-K, where 135 is the voltage of a profile, and the letter after X08 is the speed.
        (r"^\d+GB?F\dX08(?P<bin>[LQR])\w+-135", _named(_PNY, 4, profile=True)),
        (r"^\d+GB?F\dX08(?P<bin>[LQR])\w+-12", _named(_PNY, 4)),
        # TEAMGROUP: TEAMGROUP-UD4-3600, UD5-6000, UD5-720.
        (r"^(?:[A-Z]+-)?[UES]D(?P<ddr>[345])-(?P<mts>\d{4}|\d{3}(?=[. ]|$))", _abbreviated()),
        # Transcend: TS512MLK64V6H (K is DDR3, H is DDR4).
        (r"^TS\d+[GM][A-Z]K\d\d[VW](?P<bin>\d)", _named(_TRANSCEND_DDR3, 3)),
        (r"^TS\d+[GM][A-Z]H\d\d[VW](?P<bin>\d)", _named(_TRANSCEND_DDR4, 4)),
        # Kingmax: FLGF65F-D8KMB. SMART: SH564128FH8N6TNSQG, where the letter before S is the speed.
        (r"^FL(?P<bin>[EFG])[A-Z]\d\d[A-Z]-", _named(_KINGMAX, 3)),
        (r"^S[A-Z]\d{4}\w+\d[A-Z](?P<bin>[HN])S[A-Z]{1,2}$", _named(_SMART, 3)),
        (r"^S[A-Z]\d{4}\w+\d[A-Z](?P<bin>[KL])S[A-Z]{1,2}$", _named(_SMART, 4)),
        # Lexar: LD4S16G32C22ST, LD5U16G72C34LA. Mushkin: MRX4U360GKKP32G.
        (r"^LD(?P<ddr>[45])[A-Z]{1,2}\d+G(?P<mts>\d{2})C\d", _abbreviated()),
        (r"^M[A-Z]{2}(?P<ddr>[345])[US](?P<mts>\d{3})[A-Z]", _abbreviated()),
        # KLEVV: KD48GU880-32A160T. Silicon Power: SP016GBSFU320F02. AMD Radeon: R748G2606U2S.
        (r"^K[DF](?P<ddr>[45])\w{4,6}-(?P<mts>\d{2})[A-Z]\d{3}", _abbreviated()),
        (r"^SP\d{3}G[BXL][A-Z]{2,3}(?P<mts>1\d{2})[A-Z]\w", _abbreviated(generation=3)),
        (r"^SP\d{3}G[BX][A-Z]{2,3}(?P<mts>\d{3})[A-Z]\w", _abbreviated(generation=4)),
        (r"^(?:R[3579]S?|A[A-Z])(?P<ddr>[34])\d{1,2}G(?P<mts>\d{3})\d", _amd),
        # Others: 60C36, 36C18, speed and CAS latency, which also remain if firmware drops a part number's first
        # letters.
        (r"(?<!\d)5?(?P<mts>48|5[26]|6[0-8]|7[0268]|8[0-4])C(?:2[68]|[34]\d)(?!\d)", _abbreviated(generation=5)),
        (r"(?<!\d)(?P<mts>2[1469]|3[02346-8]|4[0-4])C(?:1[0-9]|2[0-2])(?!\d)", _abbreviated(generation=4)),
    )
)
