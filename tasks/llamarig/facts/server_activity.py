"""What the model servers of a box do now."""

from __future__ import annotations

from pyinfra.api.facts import FactBase

from llamarig.facts.output import json_object
from llamarig.remote.serve.server_activity import Activity
from llamarig.render import layout


class ServerActivity(FactBase[dict[str, Activity]]):
    """Unit -> Activity, of the servers that run; empty where the box has no programs of this version.

    Output::

        {"llamarig-tiny.service": {"ready": true, "context": 8192, "slots": 1, "busy": 0, ...
    """

    default = dict

    def command(self) -> str:
        return (
            f"cd {layout.PROGRAMS} 2>/dev/null && "
            f"{layout.PYTHON} -B -m llamarig.remote.serve.server_activity 2>/dev/null || true"
        )

    def process(self, output: list[str]) -> dict[str, Activity]:
        line = next((line for line in reversed(output) if line.startswith("{")), "")
        found = json_object(line)
        return {unit: Activity.from_stored(value) for unit, value in found.items() if isinstance(value, dict)}
