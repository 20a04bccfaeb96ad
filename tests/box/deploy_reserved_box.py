"""Reserve the box as a planning does, until the file /run/planned is there."""

from __future__ import annotations

from llamarig.engine.item import Commands
from llamarig.items.box_reservation import on_reserved_box, run_reserved
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State


def plans(state: State, host: Host) -> bool:
    run_reserved("rm -f /run/planned; for n in $(seq 1000); do test -e /run/planned && break; sleep 0.2; done")
    return True


@operation(is_idempotent=False)
def planned() -> Commands:
    yield from on_reserved_box(False, plans)


planned(name="Planned")
