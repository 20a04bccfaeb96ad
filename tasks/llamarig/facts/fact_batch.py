"""Read several facts with one command: one SSH channel and one round trip instead of one for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyinfra.api.facts import FactBase

from llamarig.facts.output import whole_number

FactRequest = tuple[type[FactBase[Any]], Mapping[str, Any]]
"""A fact, and the arguments of its command."""

_MARK = "@@llamarig "


class FactBatch(FactBase[dict[int, list[str]]]):
    """Index of a requested fact -> the lines that its command printed, for commands that succeeded.

    The caller passes the lines to each fact's own ``process``. Here the second command has failed::

        @@llamarig 1
        no end
        @@llamarig ok
        @@llamarig 2
        half
    """

    default = dict

    def command(self, requests: Sequence[FactRequest]) -> str:
        return "; ".join(
            [*(_marked(index, fact, arguments) for index, (fact, arguments) in enumerate(requests)), "true"]
        )

    def process(self, output: list[str]) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        index, lines = -1, list[str]()
        for line in output:
            if line == f"{_MARK}ok":
                found[index] = lines[:-1] if lines and not lines[-1] else lines
            elif line.startswith(_MARK) and (parsed := whole_number(line.removeprefix(_MARK))) is not None:
                index, lines = parsed, []
            else:
                lines.append(line)
        return found


def _marked(index: int, fact: type[FactBase[Any]], arguments: Mapping[str, Any]) -> str:
    command = str(fact().command(**arguments))
    program = fact().requires_command(**arguments)
    if program:
        command = f"command -v {program} >/dev/null && {{ {command}; }} || ! command -v {program} >/dev/null"
    # Output may not end in a newline.
    return f"echo '{_MARK}{index}'; ( {command}; ) 2>/dev/null && echo && echo '{_MARK}ok' || echo"
