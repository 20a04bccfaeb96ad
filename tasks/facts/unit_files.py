"""Unit files of the box with what systemd makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.sections import blocks, decoded
from tasks.planning import layout


@dataclass(frozen=True)
class UnitFile:
    """Empty where there is none."""

    text: str = ""
    active: bool = False
    enabled: bool = False
    needs_reload: bool = False


class UnitFiles(FactBase[dict[str, UnitFile]]):
    """Name -> UnitFile, for the names asked for."""

    @staticmethod
    @override
    def default() -> dict[str, UnitFile]:
        return {}

    @override
    def command(self, names: Iterable[str]) -> str:
        return (
            f"for u in {' '.join(sorted(names))}; do "
            f'echo "unit=$u"; test -f {layout.UNITS}/$u && echo "text=$(base64 -w0 <{layout.UNITS}/$u)"; '
            "systemctl show $u -p ActiveState -p UnitFileState -p NeedDaemonReload; done; true"
        )

    @override
    def process(self, output: list[str]) -> dict[str, UnitFile]:
        return {
            name: UnitFile(
                text=decoded(values.get("text", "")),
                active=values.get("ActiveState") in ("active", "activating"),
                enabled=values.get("UnitFileState") == "enabled",
                needs_reload=values.get("NeedDaemonReload") == "yes",
            )
            for name, values in blocks(output, "unit").items()
        }
