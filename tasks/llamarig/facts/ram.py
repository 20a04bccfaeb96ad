"""The memory modules of a box, its processor and board, from the SMBIOS table of its firmware."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyinfra.api.facts import FactBase

_UNITS = {"kB": 1 / 1024, "KB": 1 / 1024, "MB": 1, "GB": 1024, "TB": 1024 * 1024}
_STANDARD_DDR4 = (2133, 2134, 2400, 2666, 2667, 2933, 2934, 3200)
_FILLER = {"unknown", "not specified", "none", "null", "undefined", "not available", "<out of spec>", "<bad index>"}


@dataclass(frozen=True)
class Module:
    """One populated memory slot (SMBIOS type 17). Speeds in MT/s as the firmware reports them, 0 where it reports none.

    ``speed``: what the module supports; ``configured``: what it runs at. See checks/ram_speed.py: either may be
    something else.
    """

    size_mib: int
    type: str = ""
    form_factor: str = ""
    locator: str = ""
    bank: str = ""
    speed: int = 0
    configured: int = 0
    part_number: str = ""

    @property
    def generation(self) -> int | None:
        """Generation of DDR: 3, 4 or 5; None where it is not known (virtual machine)."""
        if match := re.search(r"DDR([345])", self.type):
            return int(match[1])
        # dmidecode prints types that are newer than itself as <OUT OF SPEC>: 2.12 knows no DDR4, and 3.2 no DDR5. Other
        # speeds than these may be those of a profile.
        if not self.type and self.part_number and self.speed >= 4000:
            return 5
        return 4 if not self.type and self.part_number and self.speed in _STANDARD_DDR4 else None

    @property
    def soldered(self) -> bool:
        """Whether it is chips on the board, as LPDDR is, except in modules that are screwed on."""
        is_lpddr = self.type.startswith("LPDDR") and not self.screwed_on
        return is_lpddr or "chip" in self.form_factor.lower()

    @property
    def screwed_on(self) -> bool:
        """Whether it is a CAMM2 or LPCAMM2. Boards report soldered LPDDR as DIMM or SODIMM, too, but not as CAMM."""
        return "camm" in self.form_factor.lower() or re.match(r"CT\d+G\d\dC\dLP", self.part_number) is not None

    @property
    def channel(self) -> str | None:
        """Name of its memory channel, None where the board's slot names do not contain it."""
        return _channel(self.locator, self.bank)


_CHANNELS = (
    r"(?P<above>P\d+ |Node\d+[_ ]|Controller\d+-)?Channel ?-?(?P<channel>[A-L0-9])",
    r"(?P<above>P\d-)?DIMM[ _-]?(?P<channel>[A-L])\d?\b",
    r"(?P<above>)(?P<channel>Controller\d+)-DIMM",
)


def _channel(locator: str, bank: str) -> str | None:
    for text in (locator, bank):
        for pattern in _CHANNELS:
            if match := re.search(pattern, text, re.IGNORECASE):
                return f"{match['above'] or ''}{match['channel']}".upper()
    return None


def channels_used(modules: Iterable[Module]) -> int | None:
    """Number of memory channels that have a module; None where the channel of a module is unknown."""
    found = [module.channel for module in modules]
    return None if None in found else len(set(found))


@dataclass(frozen=True)
class Ram:
    """``slots``: memory slots, populated or empty; ``why_not``: why the table cannot be read, empty where it can."""

    modules: tuple[Module, ...] = ()
    slots: int = 0
    why_not: str = ""
    processor: str = ""
    """Name of the first processor; empty if unknown."""
    board: str = ""
    """Maker and name of the board; empty if unknown."""


class MemoryModules(FactBase[Ram]):
    """Memory slots and modules, processor and board, from dmidecode (SMBIOS types 2, 4, 16 and 17).

    Output, shortened::

        Handle 0x0002, DMI type 2, 15 bytes
        Base Board Information
            Product Name: IMB-X1316
        Handle 0x0010, DMI type 16, 23 bytes
        Physical Memory Array
            Use: System Memory
            Number Of Devices: 4
        Handle 0x0011, DMI type 17, 92 bytes
        Memory Device
            Size: No Module Installed
            Locator: Controller0-ChannelA-DIMM0
    """

    @staticmethod
    def default() -> Ram:
        return Ram(why_not="the box has not reported its memory modules")

    def command(self) -> str:
        # PATH of sudo or of a login may lack sbin. Output is parsed in English.
        return (
            "export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin; "
            "if ! command -v dmidecode >/dev/null; then echo 'why=dmidecode is not installed'; "
            'elif [ "$(id -u)" != 0 ]; then echo "why=only root may read the firmware\'s table"; '
            "elif ! dmidecode --type 2 --type 4 --type 16 --type 17 2>/dev/null; "
            "then echo 'why=the firmware has no table that dmidecode can read (a container?)'; fi; true"
        )

    def process(self, output: list[str]) -> Ram:
        return parse(output)


@dataclass
class _Record:
    """One SMBIOS record: number of its type, and fields."""

    kind: int
    handle: str
    fields: dict[str, str] = field(default_factory=dict)


def parse(output: Iterable[str]) -> Ram:
    """Parse output of dmidecode. Leaves out everything that is not a RAM module: flash chips, caches, empty slots."""
    records: list[_Record] = []
    why_not = ""
    for line in output:
        if match := re.match(r"Handle (0x[0-9A-Fa-f]+), DMI type (\d+)", line):
            records.append(_Record(int(match[2]), match[1]))
        elif line.startswith("why="):
            why_not = line.partition("=")[2]
        elif records and line[:1] in ("\t", " ") and ":" in line:
            key, _, value = line.strip().partition(":")
            records[-1].fields.setdefault(key.strip().lower(), value.strip())
    other_arrays = {
        record.handle
        for record in records
        if record.kind == 16 and record.fields.get("use", "System Memory") != "System Memory"
    }
    devices = [
        record
        for record in records
        if record.kind == 17
        and record.fields.get("array handle") not in other_arrays
        and record.fields.get("type", "").lower() not in ("flash", "rom", "eeprom", "eprom")
    ]
    modules = tuple(module for record in devices if (module := _module(record.fields)) is not None)
    if not devices and not why_not:
        why_not = "the firmware lists no memory modules"
    board = next((record.fields for record in records if record.kind == 2), {})
    processor = next((record.fields for record in records if record.kind == 4), {})
    return Ram(
        modules,
        slots=len(devices),
        why_not=why_not,
        processor=_text(processor.get("version", "")),
        board=" ".join(filter(None, (_text(board.get("manufacturer", "")), _text(board.get("product name", ""))))),
    )


def _module(fields: dict[str, str]) -> Module | None:
    size = _mebibytes(fields.get("size", ""))
    if not size:
        return None
    return Module(
        size_mib=size,
        type=_text(fields.get("type", "")),
        form_factor=_text(fields.get("form factor", "")),
        locator=_text(fields.get("locator", "")),
        bank=_text(fields.get("bank locator", "")),
        speed=_number(fields.get("speed", "")),
        # Named clock, in MHz, before dmidecode 3.1; the number is the same.
        configured=_number(fields.get("configured memory speed", "") or fields.get("configured clock speed", "")),
        part_number=_text(fields.get("part number", "")),
    )


def _text(value: str) -> str:
    """Text of a field; empty for the many placeholders that firmware uses."""
    return "" if value.lower() in _FILLER else value


def _number(value: str) -> int:
    match = re.match(r"(\d{1,6})\b", value)
    return int(match[1]) if match else 0


def _mebibytes(value: str) -> int:
    match = re.fullmatch(r"(\d{1,9}) ([kKMGT]B)", value)
    return int(int(match[1]) * _UNITS[match[2]]) if match else 0
