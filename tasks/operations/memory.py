"""What the box's RAM really runs at, said aloud: no program can change it, and it can cost two thirds of the speed."""

from __future__ import annotations

from pyinfra import logger
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from tasks.facts.ram import MemoryModules
from tasks.operations import Commands
from tasks.planning.checks.base import Severity
from tasks.planning.checks.box import Box
from tasks.planning.checks.memory import MemorySpeed
from tasks.planning.checks.registry import findings
from tasks.planning.checks.report import lines
from tasks.spec.rig import Rig


@operation()
def speed_reported(rig: Rig) -> Commands:
    """The owner hears of it when the RAM runs below its declared or rated speed. Never a change."""
    box = Box(ram=host.get_fact(MemoryModules))
    found = [item for item in findings([MemorySpeed()], rig, box) if item.severity is Severity.WARNING or item.fails]
    if not found:
        host.noop("RAM runs at its declared speed, or none is known")
    elif state.is_executing and not found[0].accepted:
        for line in lines(found[0]):
            host.log_styled(line, fg="yellow", log_func=logger.warning)
    yield from ()
