"""What undoes a switch that was interrupted: a deploy, and a unit that does it at once or at boot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, Severity, query
from llamarig.engine.jobs import SWITCH
from llamarig.engine.refuse import report
from llamarig.engine.screen import say
from llamarig.engine.shell import run_line
from llamarig.engine.upload import upload
from llamarig.facts.jobs import RunningJobs
from llamarig.facts.switch_journal import UnfinishedSwitch
from llamarig.facts.unit_files import UnitFile, UnitFiles
from llamarig.items.base_system import Programs
from llamarig.items.python import Python
from llamarig.render import layout
from llamarig.render.switch_recovery import RESTORE, SERVICE, service_text


class InterruptedSwitches(Item):
    """What an interrupted switch had stopped serves again: at once, by a deploy, or before the models start at boot."""

    name = "Interrupted switches"
    severity = Severity.ERROR
    needs = (Programs, Python)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The unit, the journal of an unfinished switch, and whether that switch runs."""
        yield query(UnitFiles, names=[SERVICE])
        yield query(UnfinishedSwitch)
        yield query(RunningJobs)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for an interrupted switch, and one for the unit."""
        unit = seen.get(UnitFiles, names=[SERVICE]).get(SERVICE, UnitFile())
        found = []
        if _is_interrupted(seen):
            what = f"switch of {seen.get(UnfinishedSwitch)}"
            found.append(Difference(what, "ended or undone", "interrupted, what served before it may be stopped"))
        if unit.text != service_text():
            texts = (unit.text, service_text())
            expected = "the unit that this version writes"
            found.append(Difference(SERVICE, expected, "missing or different", texts=texts))
        elif unit.needs_reload:
            found.append(Difference(SERVICE, "loaded as on the disk", "a daemon-reload is needed"))
        elif not unit.enabled:
            found.append(Difference(SERVICE, "run at boot", "disabled"))
        return found

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Restore what served before the interrupted switch; write the unit and enable it."""
        if _is_interrupted(seen):
            yield FunctionCommand(_restored, [], {})
        if any(difference.what == SERVICE for difference in differences):
            yield upload(service_text(), f"{layout.UNITS}/{SERVICE}")
            yield StringCommand("systemctl", "daemon-reload")
            yield StringCommand("systemctl", "--quiet", "enable", SERVICE)


def _restored(state: State, host: Host) -> bool:
    """Restore what served, and say what became of it.

    Where it does not serve again, the deploy goes on: it may be mending the cause, and switches every declared model
    that does not answer.
    """
    succeeded, output = run_line(f"cd {layout.PROGRAMS} && {RESTORE}; code=$?; echo code=$code; test $code != 1")
    if succeeded and "code=0" in output.stdout_lines:
        say(host, "; ".join(output.stderr_lines))
    else:
        report(host, "what served before an interrupted switch is not wholly restored", output.stderr_lines)
    return succeeded


def _is_interrupted(seen: Seen) -> bool:
    return bool(seen.get(UnfinishedSwitch)) and not any(name.startswith(SWITCH) for name in seen.get(RunningJobs))
