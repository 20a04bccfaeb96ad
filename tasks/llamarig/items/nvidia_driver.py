"""The NVIDIA driver from the distribution's packages, where the owner declares it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyinfra import logger
from pyinfra.api.command import StringCommand
from pyinfra.context import host, state
from pyinfra.operations import apt, pacman, server

from llamarig.declare.host_policy import NvidiaDriver
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.engine.refuse import refuse
from llamarig.engine.run import read_fact
from llamarig.engine.screen import say
from llamarig.engine.upload import upload
from llamarig.facts.cuda_toolkits import ToolkitVersions
from llamarig.facts.nvidia_packages import DriverState, NvidiaPackages
from llamarig.items.cuda_support import declared_toolkits, read_versions
from llamarig.items.driver_steps import Step, after_load, load_record, next_step, queried_packages
from llamarig.items.packages import WAIT_FOR_APT
from llamarig.render import layout

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class NvidiaDriverInstalled(Item):
    """The declared NVIDIA driver is installed, loaded, and held back from upgrades of only some of its packages."""

    name = "NVIDIA driver"

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing if the owner installs the driver."""
        if rig.host.nvidia_driver is not None:
            yield query(NvidiaPackages, packages=queried_packages(rig.host.nvidia_driver))
            if paths := declared_toolkits(rig.builds):
                yield query(ToolkitVersions, paths=paths)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """The next step, which a deploy takes, or the refusal if only the owner can take it."""
        driver = rig.host.nvidia_driver
        if driver is None:
            return []
        box = seen.get(NvidiaPackages, packages=queried_packages(driver))
        if box.wsl and any(build.backend != "cpu" for build in rig.builds):
            return []  # Declarations refuses the build, and so the whole deploy
        step = next_step(driver, box, rig.builds, read_versions(rig, seen))
        if step is None:
            return []
        expected = "installed, held and loaded"
        if step.kind in ("refuse", "wait"):
            return [Difference.refusal_of(self.name, expected, step.message)]
        return [Difference(self.name, expected, f"next step: {_announcement(step)}")]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Take one step after another. Each is chosen by the state of the box after the one before."""
        driver = rig.host.nvidia_driver
        if driver is not None:
            yield from _steps(rig, driver, seen)


def _steps(rig: Rig, driver: NvidiaDriver, seen: Seen) -> Commands:
    packages, toolkits = queried_packages(driver), read_versions(rig, seen)
    done: set[str] = set()
    while True:
        box = read_fact(NvidiaPackages, fresh=bool(done), packages=packages)
        step = next_step(driver, box, rig.builds, toolkits)
        if step is None:
            return
        if step.kind == "load" and step.kind in done:
            step = after_load(driver, step)
        if step.kind in ("refuse", "wait") or step.kind in done:
            yield from refuse(
                step.message or f"NVIDIA driver: the step {step.kind} changed nothing; see the output above"
            )
            return
        done.add(step.kind)
        yield from _run_step(step, box)


def _run_step(step: Step, box: DriverState) -> Commands:
    if state.is_executing:
        say(host, _announcement(step), fg="yellow", log_func=logger.info)
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
        # Arch does not support partial upgrades: headers, module and kernel have to be of one snapshot.
        yield from pacman.packages._inner(packages=list(step.names), update=True, upgrade=True)
    elif step.kind == "install":
        yield from apt.packages._inner(
            packages=list(step.names),
            update=True,
            no_recommends=True,
            # A change of series replaces packages that are held.
            extra_install_args=f"{WAIT_FOR_APT} --allow-change-held-packages",
        )
    elif step.kind == "hold" and box.family == "arch":
        names = " ".join(step.names)
        yield StringCommand(f"sed -i 's/^\\[options\\]$/[options]\\nIgnorePkg = {names}/' /etc/pacman.conf")
    elif step.kind == "hold":
        yield StringCommand("apt-mark", "hold", *step.names)
    elif step.kind == "load":
        yield StringCommand("mkdir", "-p", layout.STATE)
        yield upload(f"{load_record(box)}\n", layout.DRIVER_LOAD)
        yield StringCommand("modprobe nvidia || true")
    elif step.kind == "reboot":
        yield from server.reboot._inner()


def _announcement(step: Step) -> str:
    names = ", ".join(step.names)
    return {
        "components": f"adding Debian's components {names} to the package sources, for the driver",
        "refresh": "reading the distribution's package lists",
        "install": f"installing {names}",
        "hold": f"holding {names}, so that no upgrade changes only a part of the driver",
        "load": "loading the driver's module",
        "reboot": step.message,
    }[step.kind]
