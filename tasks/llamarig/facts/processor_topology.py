"""Which CPUs of a box are cores of their own, and which cores are the fast ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.placement.box_capacity import parse_cpu_list


@dataclass(frozen=True)
class Topology:
    """``first``: the first CPU of each physical core; ``fast``: those of a hybrid processor's performance cores."""

    online: frozenset[int] = frozenset()
    first: frozenset[int] = frozenset()
    fast: frozenset[int] = frozenset()

    @property
    def cores(self) -> int:
        """Physical cores."""
        return len(self.first)

    @property
    def fast_cores(self) -> int:
        """Performance cores; 0 where all cores are alike, or that is not known."""
        found = len(self.first & self.fast)
        return found if found < self.cores else 0


class ProcessorTopology(FactBase[Topology]):
    """CPUs that are online with their cores, and the performance cores of a hybrid processor.

    Output::

        0,0,0
        1,1,0
        fast
    """

    default = Topology

    def command(self) -> str:
        # Intel's hybrid processors have a PMU of their own for each kind of core.
        return "lscpu -p=CPU,CORE,SOCKET | grep -v '^#'; echo fast $(cat /sys/devices/cpu_core/cpus 2>/dev/null)"

    def process(self, output: list[str]) -> Topology:
        rows = [match for line in output if (match := re.fullmatch(r"(\d{1,5}),(\d*),(\d*)", line))]
        cores: dict[tuple[str, str], int] = {}
        for row in rows:
            cores[row[2], row[3]] = min(int(row[1]), cores.get((row[2], row[3]), int(row[1])))
        fast = next((line.removeprefix("fast").strip() for line in output if line.startswith("fast")), "")
        return Topology(
            online=frozenset(int(row[1]) for row in rows),
            first=frozenset(cores.values()),
            fast=parse_cpu_list(fast) if fast else frozenset(),
        )
