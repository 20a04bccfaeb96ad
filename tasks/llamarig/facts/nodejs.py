"""Node.js and npm: those that are installed, and what the distribution offers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.output import parse_sections, sections_command


@dataclass(frozen=True)
class Node:
    """``own``: version of the installed one, ``npm``: of its npm, ``offered``: of the distribution's; empty where none
    or unknown."""

    own: str = ""
    npm: str = ""
    offered: str = ""


class NodeFound(FactBase[Node]):
    """Versions of Node.js and npm. Contacts no mirror: the offer is read from the box's package lists.

    Output::

        == own
        v20.19.2

        == npm
        9.2.0

        == offered
          Candidate: 20.19.2+dfsg-1+deb13u3
    """

    default = Node

    def command(self) -> str:
        return sections_command(
            {
                "own": "node --version",
                "npm": "npm --version",
                "offered": (
                    "{ apt-cache policy nodejs | grep Candidate:; pacman -Si nodejs | grep -m 1 '^Version'; "
                    "dnf -q --cacheonly info nodejs | grep -m 1 '^Version'; }"
                ),
            }
        )

    def process(self, output: list[str]) -> Node:
        sections = parse_sections(output)
        return Node(*(_version(sections[name]) for name in ("own", "npm", "offered")))


def _version(lines: list[str]) -> str:
    """``20.19.2`` of ``Candidate: 20.19.2+dfsg-1+deb13u2``; of Arch's ``1:22.1.0-1`` what is after the colon."""
    match = re.search(r"\d+\.\d+(\.\d+)?", " ".join(lines))
    return match[0] if match else ""
