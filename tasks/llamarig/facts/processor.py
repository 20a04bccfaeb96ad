"""The processor of a box: its name, its cores, and which of them are the fast ones where they differ."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.output import parse_sections, sections_command
from llamarig.placement.box_capacity import parse_cpu_list

_SAME_CLASS = 0.85
"""Share of the largest capacity that the cores of one class have at least: of ARM's fast cores, some may reach a higher
clock than others."""


@dataclass(frozen=True)
class Processor:
    """``core_of``: number of an online CPU -> its physical core and socket; empty where unknown."""

    name: str = ""
    core_of: tuple[tuple[int, str], ...] = ()
    fast_cpus: frozenset[int] = frozenset()
    """Numbers of the fast CPUs where the others are slower; empty where all are alike, or it is not known."""

    @property
    def cores(self) -> int:
        """Number of physical cores, 0 where unknown."""
        return len({core for _, core in self.core_of})

    @property
    def fast_cores(self) -> int:
        """Number of the fast physical cores of a hybrid processor, else 0."""
        return len({core for cpu, core in self.core_of if cpu in self.fast_cpus})


class ProcessorFound(FactBase[Processor]):
    """Name and cores of the processor. Any user may read them.

    Intel's hybrid processors have one device for each kind of core (Linux: arch/x86/events/intel/core.c, "cpu_core" and
    "cpu_atom"). ARM's have a capacity for each CPU, of which 1024 is the largest (Linux: Documentation/ABI/testing/
    sysfs-devices-system-cpu).

    Output, shortened, of a machine whose cores are alike::

        == name
        Intel(R) Xeon(R) Processor

        == cores
        0,0,0
        1,1,0

        == performance

    And of a hybrid one (written by the kernel's documentation)::

        == performance
        0-11

        == efficiency
        12-15
    """

    default = Processor

    def command(self) -> str:
        return sections_command(
            {
                "name": "lscpu | sed -n 's/^Model name: *//p'",
                "cores": "lscpu -p=CPU,CORE,SOCKET | grep -v '^#'",
                "performance": "cat /sys/devices/cpu_core/cpus",
                "efficiency": "cat /sys/devices/cpu_atom/cpus",
                "capacities": "grep -H . /sys/devices/system/cpu/cpu[0-9]*/cpu_capacity",
            }
        )

    def process(self, output: list[str]) -> Processor:
        sections = parse_sections(output)
        cores = [match for line in sections["cores"] if (match := re.fullmatch(r"(\d{1,5}),(\d+),(\d*)", line.strip()))]
        fast, slow = (parse_cpu_list(" ".join(sections[name])) for name in ("performance", "efficiency"))
        return Processor(
            name=", ".join(dict.fromkeys(line.strip() for line in sections["name"])),
            core_of=tuple((int(match[1]), f"{match[3]}:{match[2]}") for match in cores),
            fast_cpus=fast if fast and slow else _fast_by_capacity(sections["capacities"]),
        )


def _fast_by_capacity(lines: list[str]) -> frozenset[int]:
    found = [re.search(r"/cpu(\d{1,5})/cpu_capacity:(\d{1,5})$", line.strip()) for line in lines]
    capacity = {int(match[1]): int(match[2]) for match in found if match}
    fast = frozenset(cpu for cpu, value in capacity.items() if value >= _SAME_CLASS * max(capacity.values()))
    return fast if len(fast) < len(capacity) else frozenset()
