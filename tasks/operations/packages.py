"""The distribution's own packages, installed when one is missing; a box that has them all asks no mirror."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyinfra.api.operation import operation
from pyinfra.context import host
from pyinfra.facts.deb import DebPackages
from pyinfra.facts.files import File
from pyinfra.facts.pacman import PacmanPackages
from pyinfra.facts.rpm import RpmPackages
from pyinfra.operations import apt, dnf, pacman

from tasks.operations import Commands
from tasks.operations.once import read_once
from tasks.operations.refuse import refuse

APT = "/usr/bin/apt-get"
PACMAN = "/usr/bin/pacman"
DNF = "/usr/bin/dnf"
WAIT_FOR_APT = "-o DPkg::Lock::Timeout=600"
"""Unattended upgrades hold the lock now and then; they are waited for. In seconds."""


@operation()
def installed(wanted: Mapping[str, Sequence[str]]) -> Commands:
    """The packages of the box's distribution are there, in whichever version.

    :param wanted: family (debian, arch, fedora) -> names
    """
    if read_once(File, path=APT):
        missing = sorted(set(wanted["debian"]) - read_once(DebPackages).keys())
        if missing:
            yield from apt.packages._inner(
                packages=missing, update=True, no_recommends=True, extra_install_args=WAIT_FOR_APT
            )
    elif read_once(File, path=PACMAN):
        missing = sorted(set(wanted["arch"]) - read_once(PacmanPackages).keys())
        if missing:
            # Without a newer package list: new packages beside old ones are what Arch calls a partial upgrade. Where
            # the mirror no longer has the versions listed, pacman says so, and the owner upgrades (pacman -Syu) first.
            yield from pacman.packages._inner(packages=missing)
    elif read_once(File, path=DNF):
        missing = sorted(set(wanted["fedora"]) - read_once(RpmPackages).keys())
        if missing:
            yield from dnf.packages._inner(packages=missing, extra_install_args="--setopt=install_weak_deps=False")
    else:
        yield from refuse(
            "this box has neither apt, pacman nor dnf: llamarig knows Debian, Ubuntu, Arch, Fedora and their kin"
        )
        return
    if not missing:
        host.noop("every package is installed")
