"""Libraries of simulated GPUs that are as they were built."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyinfra.api.facts import FactBase


class IntactSimulatedGpus(FactBase[set[str]]):
    """Those of the given directories whose library has the sha256 that was recorded when it was built.

    Output::

        whole /var/lib/llamarig/simulated/0c1e57098bba43ac29e6e3b677cdceebdd22334f-...
    """

    default = set

    def command(self, directories: Sequence[str]) -> str:
        return (
            f"for d in {' '.join(directories)}; do "
            "(cd $d && sha256sum --check --strict --status SHA256SUMS) 2>/dev/null && echo whole $d; done; true"
        )

    def process(self, output: list[str]) -> set[str]:
        return {match[1] for line in output if (match := re.fullmatch(r"whole (\S+)", line))}
