"""The simulated GPUs of a box: which of the compiled libraries are there and still as they were built."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyinfra.api.facts import FactBase
from typing_extensions import override


class WholeSimulations(FactBase[set[str]]):
    """Of the directories asked for, those whose library has the sha256 that was recorded when it was built."""

    @staticmethod
    @override
    def default() -> set[str]:
        return set()

    @override
    def command(self, directories: Sequence[str]) -> str:
        return (
            f"for d in {' '.join(directories)}; do "
            "(cd $d && sha256sum --check --strict --status SHA256SUMS) 2>/dev/null && echo whole $d; done; true"
        )

    @override
    def process(self, output: list[str]) -> set[str]:
        return {match[1] for line in output if (match := re.fullmatch(r"whole (\S+)", line))}
