"""The liveness probe of a box: its two unit files, and its timer running."""

from __future__ import annotations

import io

from pyinfra.api.command import FileUploadCommand, StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host

from tasks.facts.unit_files import UnitFile, UnitFiles
from tasks.operations import Commands
from tasks.operations.once import read_once
from tasks.planning import layout
from tasks.planning.liveness import SERVICE, TIMER, service_text, timer_text
from tasks.spec.rig import Rig


@operation()
def servers_watched(rig: Rig) -> Commands:
    """Servers that answer /health and complete nothing are noticed and restarted; not so where the owner wants none."""
    texts = {SERVICE: service_text(model.serve.host for model in rig.models), TIMER: timer_text()}
    found = read_once(UnitFiles, names=[*texts])
    timer = found.get(TIMER, UnitFile())
    if not rig.host.liveness_probe:
        if timer.active or timer.enabled:
            yield StringCommand("systemctl", "--quiet", "disable", "--now", TIMER)
        else:
            host.noop("no liveness probe is wanted, none runs")
        return
    wrong = [unit for unit, text in texts.items() if found.get(unit, UnitFile()).text != text]
    for unit in wrong:
        yield FileUploadCommand(io.StringIO(texts[unit]), f"{layout.UNITS}/{unit}")
        yield StringCommand("chmod", "644", f"{layout.UNITS}/{unit}")
    if wrong or any(unit.needs_reload for unit in found.values()):
        yield StringCommand("systemctl", "daemon-reload")
    if TIMER in wrong or not (timer.active and timer.enabled):
        yield StringCommand("systemctl", "--quiet", "enable", TIMER)
        yield StringCommand("systemctl", "restart", TIMER)
    elif not wrong:
        host.noop("the liveness probe is as it should be")
