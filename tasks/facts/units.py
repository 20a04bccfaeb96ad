"""The model units of a box: their text, what runs, since when, and whether it answers."""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.numbers import whole
from tasks.facts.sections import blocks, decoded
from tasks.planning import layout
from tasks.planning.serving import Unit


class Units(FactBase[dict[str, Unit]]):
    """Unit name -> Unit, for every llamarig unit the box has, declared or not."""

    @staticmethod
    @override
    def default() -> dict[str, Unit]:
        return {}

    @override
    def command(self, health: Mapping[str, str]) -> str:
        """``health``: unit name -> URL to ask for its health."""
        asks = " ".join(f"{unit}) u={url};;" for unit, url in sorted(health.items()))
        return (
            f"cd {layout.UNITS} && for f in llamarig-*.service; do test -f $f || continue; "
            'echo "unit=$f"; echo "Written=$(stat -c %Y $f)"; echo "Now=$(date +%s)"; echo "Text=$(base64 -w0 <$f)"; '
            "systemctl show $f --timestamp=unix -p ActiveState -p UnitFileState -p NeedDaemonReload -p MainPID "
            "-p ExecMainStartTimestamp; "
            "p=$(systemctl show $f -p MainPID --value); "
            'test "$p" != 0 && echo "Arguments=$(base64 -w0 </proc/$p/cmdline)"; '
            # The key file that the unit was given, where it has one: a new key takes a restart, not another unit.
            "k=$(sed -n 's/^LoadCredential=api-key://p' $f); "
            'test -n "$k" && echo "KeyWritten=$(stat -c %Y "$k" 2>/dev/null)"; '
            f"test -f {layout.PROOFS}/$f.json && "
            f'echo "Proved=$(grep -o \'"text_sha256": "[0-9a-f]*"\' {layout.PROOFS}/$f.json | cut -d\\" -f4)"; '
            f"u=; case $f in {asks} esac; "
            'test -n "$u" && test "$p" != 0 && '
            "echo \"Health=$(curl -s -o /dev/null -w '%{http_code}' --noproxy '*' --max-time 5 $u)\"; "
            "done; true"
        )

    @override
    def process(self, output: list[str]) -> dict[str, Unit]:
        return {name: _unit(values) for name, values in blocks(output, "unit").items()}


def _unit(values: Mapping[str, str]) -> Unit:
    arguments = decoded(values.get("Arguments", ""))
    return Unit(
        text=decoded(values.get("Text", "")),
        active=values.get("ActiveState", "inactive"),
        enabled=values.get("UnitFileState", ""),
        needs_reload=values.get("NeedDaemonReload") == "yes",
        arguments=tuple(arguments.removesuffix("\0").split("\0")) if arguments else (),
        started=whole(values.get("ExecMainStartTimestamp", "").lstrip("@")) or 0,
        written=whole(values.get("Written", "")) or 0,
        key_written=whole(values.get("KeyWritten", "")) or 0,
        now=whole(values.get("Now", "")) or 0,
        proved_sha256=values.get("Proved", ""),
        health=whole(values.get("Health", "")) or 0,
    )
