"""The memory modules of a box, from its firmware's own table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.planning.ram.modules import Module, Ram

_UNITS = {"kB": 1 / 1024, "KB": 1 / 1024, "MB": 1, "GB": 1024, "TB": 1024 * 1024}
_FILLER = {"unknown", "not specified", "none", "null", "undefined", "not available", "<out of spec>", "<bad index>"}


class MemoryModules(FactBase[Ram]):
    """What dmidecode tells of memory arrays and modules (SMBIOS types 16 and 17)."""

    @staticmethod
    @override
    def default() -> Ram:
        return Ram(why_not="nothing could be asked")

    @override
    def command(self) -> str:
        # sudo's and a login's PATH may lack sbin; the words are English whatever the box speaks.
        return (
            "export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin; "
            "if ! command -v dmidecode >/dev/null; then echo 'why=dmidecode is not installed'; "
            'elif [ "$(id -u)" != 0 ]; then echo "why=only root may read the firmware\'s table"; '
            "elif ! dmidecode --type 16 --type 17 2>/dev/null; "
            "then echo 'why=the firmware has no table that dmidecode can read (a container?)'; fi; true"
        )

    @override
    def process(self, output: list[str]) -> Ram:
        return parse(output)


@dataclass
class _Record:
    """One SMBIOS record: its type's number, and its fields."""

    kind: int
    handle: str
    fields: dict[str, str] = field(default_factory=dict)


def parse(output: Iterable[str]) -> Ram:
    """dmidecode's words as modules. Anything that is no module of RAM is left out: flash chips, caches, empty slots."""
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
    return Ram(modules, slots=len(devices), why_not=why_not)


def _module(fields: dict[str, str]) -> Module | None:
    size = _mebibytes(fields.get("size", ""))
    if not size:
        return None
    return Module(
        size_mib=size,
        type=_said(fields.get("type", "")),
        form_factor=_said(fields.get("form factor", "")),
        locator=_said(fields.get("locator", "")),
        bank=_said(fields.get("bank locator", "")),
        speed=_number(fields.get("speed", "")),
        # Before dmidecode 3.1 it was called clock, and MT/s MHz; the number is the same.
        configured=_number(fields.get("configured memory speed", "") or fields.get("configured clock speed", "")),
        manufacturer=_said(fields.get("manufacturer", "")),
        part_number=_said(fields.get("part number", "")),
        ranks=_number(fields.get("rank", "")),
        total_width=_number(fields.get("total width", "")),
        data_width=_number(fields.get("data width", "")),
    )


def _said(value: str) -> str:
    """A field's text, empty for the many ways in which firmware says nothing."""
    return "" if value.lower() in _FILLER else value


def _number(value: str) -> int:
    match = re.match(r"(\d{1,6})\b", value)
    return int(match[1]) if match else 0


def _mebibytes(value: str) -> int:
    match = re.fullmatch(r"(\d{1,9}) ([kKMGT]B)", value)
    return int(int(match[1]) * _UNITS[match[2]]) if match else 0
