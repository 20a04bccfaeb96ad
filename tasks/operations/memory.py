"""Swap policy; and what the RAM really runs at, said aloud: no program can mend it, and it costs up to two thirds."""

from __future__ import annotations

import hashlib
import io

from pyinfra import logger
from pyinfra.api.operation import operation
from pyinfra.context import host, state
from pyinfra.operations import files, server

from tasks.facts.files import Ownership, Sha256Sums
from tasks.facts.machine import MachineState
from tasks.facts.ram import MemoryModules
from tasks.operations import Commands, closes
from tasks.operations.once import read_once
from tasks.planning import layout
from tasks.planning.checks.base import Severity
from tasks.planning.checks.box import Box
from tasks.planning.checks.memory import MemorySpeed, Swappiness
from tasks.planning.checks.registry import findings
from tasks.planning.checks.report import lines
from tasks.spec.rig import Rig


@operation()
def speed_reported(rig: Rig) -> Commands:
    """The owner hears of it when the RAM runs below its declared or rated speed. Never a change."""
    box = Box(ram=read_once(MemoryModules))
    found = [item for item in findings([MemorySpeed()], rig, box) if item.severity is Severity.WARNING or item.fails]
    if not found:
        host.noop("RAM runs at its declared speed, or none is known")
    elif state.is_executing and not found[0].accepted:
        for line in lines(found[0]):
            host.log_styled(line, fg="yellow", log_func=logger.warning)
    yield from ()


@operation()
@closes(Swappiness)
def swappiness_set(value: int) -> Commands:
    """vm.swappiness is ``value``, now and after a boot."""
    path, text = layout.SYSCTL_FILE, f"# Written by llamarig: keeps model weights in RAM.\nvm.swappiness = {value}\n"
    written = read_once(Sha256Sums, paths=[path]).get(path) == hashlib.sha256(text.encode()).hexdigest()
    readable = " 644 " in read_once(Ownership, paths=[path]).get(path, "")
    machine = read_once(MachineState)
    if written and readable and machine.swappiness == value == machine.swappiness_at_boot:
        host.noop(f"vm.swappiness is {value}, now and after a boot")
        return
    if machine.swappiness_file.endswith(".rules") and machine.swappiness_at_boot != value:
        # CachyOS sets it when compressed swap appears. Without a condition: whatever theirs wait for, ours comes after.
        yield from files.put._inner(
            src=io.StringIO(f'# Written by llamarig: another rule sets it too.\nSYSCTL{{vm.swappiness}}="{value}"\n'),
            dest=layout.UDEV_FILE,
            mode="644",
        )
    # pyinfra's own `persist` leaves old values behind in its file; a file of our own holds exactly one.
    yield from files.put._inner(src=io.StringIO(text), dest=path, mode="644")
    yield from server.sysctl._inner(key="vm.swappiness", value=value)
