"""Many facts in one command: a channel, a shell and a way there and back once, instead of for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.numbers import whole

Asked = tuple[type[FactBase[Any]], Mapping[str, Any]]
"""A fact and its arguments."""

_MARK = "@@llamarig "


class Together(FactBase[dict[int, list[str]]]):
    """Place in the list -> the lines its command printed, for those that ended well."""

    @staticmethod
    @override
    def default() -> dict[int, list[str]]:
        return {}

    @override
    def command(self, asked: Sequence[Asked]) -> str:
        return "; ".join([*(_one(number, fact, arguments) for number, (fact, arguments) in enumerate(asked)), "true"])

    @override
    def process(self, output: list[str]) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        number, lines = -1, list[str]()
        for line in output:
            if line == f"{_MARK}ok":
                found[number] = lines[:-1] if lines and not lines[-1] else lines
            elif line.startswith(_MARK) and (place := whole(line.removeprefix(_MARK))) is not None:
                number, lines = place, []
            else:
                lines.append(line)
        return found


def _one(number: int, fact: type[FactBase[Any]], arguments: Mapping[str, Any]) -> str:
    command = str(fact().command(**arguments))
    needs = fact().requires_command(**arguments)
    if needs:
        command = f"command -v {needs} >/dev/null && {{ {command}; }} || ! command -v {needs} >/dev/null"
    # What a command prints may end in the middle of a line.
    return f"echo '{_MARK}{number}'; ( {command}; ) 2>/dev/null && echo && echo '{_MARK}ok' || echo"
