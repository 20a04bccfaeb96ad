"""Platform of a box: processor architecture and instruction sets, C library, distribution."""

from __future__ import annotations

from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.output import parse_sections, sections_command
from llamarig.remote.shared.instruction_sets import sets_of


@dataclass(frozen=True)
class Platform:
    """Platform of a box, empty where unknown. ``machine``: as `uname -m` prints it; ``glibc``: for example 2.41."""

    machine: str = ""
    glibc: str = ""
    system: str = ""
    instruction_sets: frozenset[str] = frozenset()


class HostPlatform(FactBase[Platform]):
    """Platform of a box; takes a few milliseconds.

    Output::

        == machine
        x86_64

        == glibc
        glibc 2.41

        == system
        Debian GNU/Linux 13 (trixie)

        == sets
        flags		: fpu vme de pse tsc msr pae mce cx8 apic sep ...
    """

    default = Platform

    def command(self) -> str:
        return sections_command(
            {
                "machine": "uname -m",
                "glibc": "getconf GNU_LIBC_VERSION",
                "system": ". /etc/os-release; echo $PRETTY_NAME",
                # "flags" on x86, "Features" on ARM.
                "sets": "grep -m 1 -E '^(flags|Features)[[:space:]]*:' /proc/cpuinfo",
            }
        )

    def process(self, output: list[str]) -> Platform:
        sections = {name: " ".join(lines) for name, lines in parse_sections(output).items()}
        return Platform(
            machine=sections.get("machine", "").strip(),
            glibc=sections.get("glibc", "").removeprefix("glibc").strip(),
            system=sections.get("system", "").strip(),
            instruction_sets=sets_of(sections.get("sets", "").partition(":")[2].split()),
        )
