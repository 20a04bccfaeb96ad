"""Which ROCm a box has from AMD, and which HIP its distribution offers."""

from __future__ import annotations

import re

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.sections import answers, ask
from tasks.planning.rocm import OPT, Rocm


class RocmFound(FactBase[Rocm]):
    """The distribution's answer comes from the package lists it has already; nothing is fetched."""

    @staticmethod
    @override
    def default() -> Rocm:
        return Rocm()

    @override
    def command(self) -> str:
        return ask(
            [
                ("own", f"cat {OPT}/.info/version"),
                ("offered", "apt-cache policy libamdhip64-dev | grep Candidate:"),
            ]
        )

    @override
    def process(self, output: list[str]) -> Rocm:
        said = answers(output)
        return Rocm(own=_version(said.get("own", [])), offered=_version(said.get("offered", [])))


def _version(lines: list[str]) -> str:
    """``5.7.1`` of ``Candidate: 5.7.1-6+deb13u1``."""
    match = re.search(r"\d+\.\d+(\.\d+)?", " ".join(lines))
    return match[0] if match else ""
