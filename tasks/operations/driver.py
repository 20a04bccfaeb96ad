"""The NVIDIA driver from the distribution's packages: one step after the other, each only when the box needs it."""

from __future__ import annotations

from pyinfra import logger
from pyinfra.api.command import StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state
from pyinfra.operations import apt, pacman, server

from tasks.facts.driver import NvidiaPackages
from tasks.operations import Commands
from tasks.operations.gpus import read_toolkits
from tasks.operations.once import read_once
from tasks.operations.packages import WAIT_FOR_APT
from tasks.operations.refuse import refuse
from tasks.planning.driver import DriverState, Step, after_load, asked_for, next_step
from tasks.spec.host_policy import NvidiaDriver
from tasks.spec.rig import Rig

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@operation()
def installed(rig: Rig, driver: NvidiaDriver) -> Commands:
    """The declared driver is installed, held back from upgrades that would split it, and loaded."""
    toolkits = read_toolkits(rig)
    done: set[str] = set()
    while True:
        box = read_once(NvidiaPackages, fresh=bool(done), packages=asked_for(driver))
        step = next_step(driver, box, rig.builds, toolkits)
        if step is None:
            break
        if step.kind == "load" and step.kind in done:
            step = after_load(driver, step)
        if step.kind in ("refuse", "wait") or step.kind in done:
            yield from refuse(step.message or f"the driver's packages: {step.kind} did not help; see the output above")
            return
        done.add(step.kind)
        yield from _taken(step, box)
    if not done:
        host.noop("the NVIDIA driver is installed, held and loaded")


def _taken(step: Step, box: DriverState) -> Commands:
    if state.is_executing:
        host.log_styled(_said(step), fg="yellow", log_func=logger.info)
    if step.kind == "components":
        yield from apt.sources_file._inner(
            filename=f"llamarig-{'-'.join(step.names)}",
            uris=["http://deb.debian.org/debian"],
            suites=[box.release, f"{box.release}-updates"],
            components=list(step.names),
            signed_by=_KEYRING,
        )
        yield from apt.update._inner()
    elif step.kind == "refresh":
        yield from apt.update._inner() if box.family != "arch" else pacman.update._inner()
    elif step.kind == "install" and box.family == "arch":
        # Arch knows no partial upgrade: headers, module and kernel have to be of one day.
        yield from pacman.packages._inner(packages=list(step.names), update=True, upgrade=True)
    elif step.kind == "install":
        yield from apt.packages._inner(
            packages=list(step.names),
            update=True,
            no_recommends=True,
            # Another series replaces packages that were held for the last one.
            extra_install_args=f"{WAIT_FOR_APT} --allow-change-held-packages",
        )
    elif step.kind == "hold" and box.family == "arch":
        names = " ".join(step.names)
        yield StringCommand(f"sed -i 's/^\\[options\\]$/[options]\\nIgnorePkg = {names}/' /etc/pacman.conf")
    elif step.kind == "hold":
        yield StringCommand("apt-mark", "hold", *step.names)
    elif step.kind == "load":
        yield StringCommand("modprobe nvidia || true")
    elif step.kind == "reboot":
        yield from server.reboot._inner()


def _said(step: Step) -> str:
    names = ", ".join(step.names)
    return {
        "components": f"Debian keeps the driver in {names} too: added to the box's package sources",
        "refresh": "reading the distribution's package lists",
        "install": f"installing {names}",
        "hold": f"held, so that no upgrade splits the driver: {names}",
        "load": "loading the driver's module",
        "reboot": step.message,
    }[step.kind]
