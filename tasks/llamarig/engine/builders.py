"""The boxes of a run that build releases for others."""

from __future__ import annotations

from pyinfra.api.host import Host
from pyinfra.context import state

from llamarig.engine.control_machine import Builder
from llamarig.engine.run import of_host, read_in_time
from llamarig.facts.platform import HostPlatform


def read_builder(name: str) -> Builder:
    """Whether a box can provide a release in this run, and its platform, which takes one command on it.

    The platform is read once a run: what is used of it is the processor.
    """
    builder = _host(name)
    if absence := absence_of(name):
        return Builder(absence)
    cached = of_host(builder)
    if cached.platform is None:
        cached.platform = read_in_time(builder, HostPlatform)
    return Builder(platform=cached.platform)


def absence_of(name: str) -> str:
    """Why a box can provide nothing in this run, as a clause after its name; empty if it can."""
    builder = _host(name)
    if builder not in state.activated_hosts:
        return "is not part of this run or was not reached: run deploy.py with both (see --limit)"
    if builder not in state.active_hosts:
        return "failed in this run: see its own message above"
    return ""


def _host(name: str) -> Host:
    return state.inventory.get_host(name)
