"""Unit files of a box and their state in systemd."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.output import decode_base64, parse_blocks
from llamarig.render import layout


@dataclass(frozen=True)
class UnitFile:
    """A unit file; all fields empty or False where there is none."""

    text: str = ""
    active: bool = False
    enabled: bool = False
    needs_reload: bool = False


class UnitFiles(FactBase[dict[str, UnitFile]]):
    """Name -> UnitFile, for the given names; text in base64.

    Output::

        unit=llamarig_liveness.timer
        text=IyBXcml0dGVuIGJ5IGxsYW1hcmlnOyBhIGxhdGVyIGRlcGxveSBwdXRzIGVkaXRz...
        ActiveState=active
        UnitFileState=enabled
        NeedDaemonReload=no
    """

    default = dict

    def command(self, names: Iterable[str]) -> str:
        return (
            f"for u in {' '.join(sorted(names))}; do "
            f'echo "unit=$u"; test -f {layout.UNITS}/$u && echo "text=$(base64 -w0 <{layout.UNITS}/$u)"; '
            "systemctl show $u -p ActiveState -p UnitFileState -p NeedDaemonReload; done; true"
        )

    def process(self, output: list[str]) -> dict[str, UnitFile]:
        return {
            name: UnitFile(
                text=decode_base64(values.get("text", "")),
                active=values.get("ActiveState") in ("active", "activating"),
                enabled=values.get("UnitFileState") == "enabled",
                needs_reload=values.get("NeedDaemonReload") == "yes",
            )
            for name, values in parse_blocks(output, "unit").items()
        }
