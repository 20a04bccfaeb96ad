"""Stop the tiny model for dry runs, until the file /run/planned is there. With the pyinfra process killed, for 20 s."""

from __future__ import annotations

from llamarig.engine.item import Commands
from llamarig.engine.shell import run_line
from llamarig.items.room_for_dry_runs import servers_stopped
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State


def plans(state: State, host: Host) -> bool:
    with servers_stopped(["llamarig-tiny.service"], away_s=20) as wait:
        wait()
        run_line("touch /run/planning; for n in $(seq 600); do test -e /run/planned && break; sleep 0.2; done")
    return True


@operation(is_idempotent=False)
def planned() -> Commands:
    yield FunctionCommand(plans, [], {})


planned(name="Planned")
