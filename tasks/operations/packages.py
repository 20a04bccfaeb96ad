"""The distribution's own packages, installed when one is missing; a box that has them all asks no mirror."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api.operation import operation
from pyinfra.context import host
from pyinfra.facts.deb import DebPackages
from pyinfra.facts.files import File
from pyinfra.facts.pacman import PacmanPackages
from pyinfra.operations import apt, pacman

from tasks.operations import Commands
from tasks.operations.refuse import refuse

WAIT_FOR_APT = "-o DPkg::Lock::Timeout=600"
"""Unattended upgrades hold the lock now and then; they are waited for. In seconds."""


@operation()
def installed(debian: Sequence[str], arch: Sequence[str]) -> Commands:
    """The packages of the box's distribution are there, in whichever version.

    :param debian: names on Debian and Ubuntu
    :param arch: names on Arch and its kin
    """
    if host.get_fact(File, path="/usr/bin/apt-get"):
        missing = sorted(set(debian) - host.get_fact(DebPackages).keys())
        if missing:
            yield from apt.packages._inner(
                packages=missing, update=True, no_recommends=True, extra_install_args=WAIT_FOR_APT
            )
    elif host.get_fact(File, path="/usr/bin/pacman"):
        missing = sorted(set(arch) - host.get_fact(PacmanPackages).keys())
        if missing:
            yield from pacman.packages._inner(packages=missing, update=True)
    else:
        yield from refuse("this box has neither apt nor pacman: llamarig knows Debian, Ubuntu, Arch and their kin")
        return
    if not missing:
        host.noop("every package is installed")
