"""vm.swappiness, now and after a reboot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from pyinfra.operations import server

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.engine.upload import upload
from llamarig.facts.files import Ownership, Sha256Sums
from llamarig.facts.machine import MachineState
from llamarig.render import layout


class Swappiness(Item):
    """vm.swappiness is host.swappiness, now (/proc) and after a reboot.

    Expert weights that are swapped out are read back from disk, token by token.
    """

    name = "Swappiness"
    check = "memory.swappiness"

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing if host.swappiness is None."""
        if rig.host.swappiness is not None:
            yield query(MachineState)
            yield query(Sha256Sums, paths=[layout.SYSCTL_FILE])
            yield query(Ownership, paths=[layout.SYSCTL_FILE])

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for what a deploy fixes, now and after a reboot; before it, one for a file that overrides ours."""
        value = rig.host.swappiness
        if value is None:
            return []
        machine, expected = seen.get(MachineState), f"{value} (host.swappiness)"
        now, boot = machine.swappiness, machine.swappiness_at_boot
        if now is None:
            why = "/proc/sys/vm/swappiness cannot be read"
            return [Difference("vm.swappiness", expected, why, is_unknown=True)]
        later = "nothing set" if boot is None else f"{boot} from {machine.swappiness_file}"
        found = f"{now} now, {later} after a reboot"
        if boot != value and _overrules_ours(machine.swappiness_file):
            # A deploy can set the value now, but that file overrides ours at the next boot.
            remedy = f"remove vm.swappiness from {machine.swappiness_file}"
            owners = [Difference("vm.swappiness", expected, found, remedy, by_deploy=False, stops_deploy=False)]
            if now != value:
                return [*owners, Difference("vm.swappiness now", expected, str(now))]
            return [*owners, *_file_differences(value, seen)]
        if now != value or boot != value:
            return [Difference("vm.swappiness", expected, found)]
        return _file_differences(value, seen)

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Write the file, and set the value in the running kernel."""
        value, machine = rig.host.swappiness, seen.get(MachineState)
        if value is None:
            return
        if machine.swappiness_file.endswith(".rules") and machine.swappiness_at_boot != value:
            # CachyOS has a udev rule that sets it for compressed swap. Ours has no condition and runs after it.
            rule = f'# Written by llamarig: another rule sets it too.\nSYSCTL{{vm.swappiness}}="{value}"\n'
            yield upload(rule, layout.UDEV_FILE)
        # sysctl's `persist` in pyinfra leaves old values in its file, so we write a file of our own.
        yield upload(_text(value), layout.SYSCTL_FILE)
        yield from server.sysctl._inner(key="vm.swappiness", value=value)


def _file_differences(value: int, seen: Seen) -> list[Difference]:
    """At most one, for the file that a deploy writes."""
    path = layout.SYSCTL_FILE
    is_written = seen.get(Sha256Sums, paths=[path]).get(path) == hashlib.sha256(_text(value).encode()).hexdigest()
    is_readable = " 644 " in seen.get(Ownership, paths=[path]).get(path, "")
    if is_written and is_readable:
        return []
    return [Difference(path, "the file that llamarig writes, mode 644", "missing, edited or not readable")]


def _text(value: int) -> str:
    return f"# Written by llamarig: keeps model weights in RAM.\nvm.swappiness = {value}\n"


def _overrules_ours(file: str) -> bool:
    """Whether a file that sets vm.swappiness is applied after the one that a deploy writes."""
    if file == "/etc/sysctl.conf":  # applied last, whatever it is called
        return True
    ours = layout.UDEV_FILE if file.endswith(".rules") else layout.SYSCTL_FILE
    return file.rpartition("/")[2] > ours.rpartition("/")[2]
