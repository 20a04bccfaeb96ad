"""ROCm installed from AMD's packages, and HIP offered by the distribution."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.output import parse_sections, sections_command

OPT = "/opt/rocm"
"""Where AMD's packages install ROCm. llama.cpp looks there first, then in /usr."""


@dataclass(frozen=True)
class Rocm:
    """``own``: version in /opt/rocm; ``offered``: version of HIP in the distribution. Empty where none or unknown."""

    own: str = ""
    offered: str = ""


class RocmFound(FactBase[Rocm]):
    """Versions of ROCm and HIP. Contacts no mirror: the offer is read from the box's package lists.

    Output::

        == own

        == offered
          Candidate: 5.7.1-6+deb13u1
    """

    default = Rocm

    def command(self) -> str:
        return sections_command(
            {
                "own": f"cat {OPT}/.info/version",
                "offered": "apt-cache policy libamdhip64-dev | grep Candidate:",
            }
        )

    def process(self, output: list[str]) -> Rocm:
        sections = parse_sections(output)
        return Rocm(own=_version(sections["own"]), offered=_version(sections["offered"]))


def _version(lines: list[str]) -> str:
    """``5.7.1`` of ``Candidate: 5.7.1-6+deb13u1``."""
    match = re.search(r"\d+\.\d+(\.\d+)?", " ".join(lines))
    return match[0] if match else ""
