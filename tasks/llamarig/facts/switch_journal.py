"""The journal that an unfinished switch of a model's unit has left on the box."""

from __future__ import annotations

from pyinfra.api.facts import FactBase

from llamarig.render import layout


class UnfinishedSwitch(FactBase[str]):
    """Unit of the switch that has not ended, whether it runs or was interrupted; an empty text where there is none.

    Output::

        {"unit": "llamarig-tiny.service"
    """

    default = str

    def command(self) -> str:
        # The journal begins with the unit; a damaged one is reported, too, and put aside by the program that reads it.
        journal = f"{layout.PROOFS}/switch-journal"
        return f'test -e {journal} && {{ grep -o -m 1 \'^{{"unit": "[^"]*"\' {journal} || echo unreadable; }}; true'

    def process(self, output: list[str]) -> str:
        if not output:
            return ""
        return output[0].split('"')[-2] if output[0].count('"') >= 4 else "an unknown unit"
