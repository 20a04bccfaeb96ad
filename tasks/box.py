"""The box at hand: its declaration, read back from pyinfra's host data."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from pydantic import ValidationError
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.context import host, state

from tasks.facts.gpus import Gpus
from tasks.operations.once import read_once
from tasks.planning.gpus import GpuState, with_architectures_of
from tasks.planning.sharing import SharingError, shared_builds
from tasks.spec.base import explain
from tasks.spec.rig import Rig

# Cards do not change during a run, and a box that shares a build is asked for its own by each of the others.
_CARDS: WeakKeyDictionary[Host, GpuState] = WeakKeyDictionary()
_COMPLETE = "rig_is_complete"


def rig_of_host() -> Rig:
    """What this host should be.

    :raises PyinfraError: when no group of the host declares a rig, ``--data`` has broken it, or boxes that share a
        build do not declare the same one
    """
    this = state.inventory.get_host(host.name)
    declared = this.data.get("rig")
    if declared is None:
        raise PyinfraError(
            f"{host.name} is in no group that declares a rig: list it under one of the groups of group_data/ in its "
            "inventory file"
        )
    if not isinstance(declared, dict):
        raise PyinfraError(
            f"{host.name}: rig = {str(declared)[:40]!r} is no declaration: leave --data rig=... out, and declare the "
            "rig in group_data/ with d.rig(...)"
        )
    rig = _rig(declared, host.name)
    if this.data.get(_COMPLETE):
        return rig
    shared = {build.name: build.built_by for build in rig.builds if build.built_by}
    if not shared and not any(build.takes_architectures_of_cards for build in rig.builds):
        return rig
    rig = _with_cards(this, rig)
    if shared:
        try:
            rig = shared_builds(host.name, {host.name: rig, **_others(this, rig)})
        except SharingError as error:
            raise PyinfraError(f"{host.name}: {error}") from None
        setattr(this.data, _COMPLETE, True)
    # The rooms that follow need not ask again.
    this.data.rig = rig.to_json()
    return rig


def _rig(declared: dict[str, Any], name: str) -> Rig:
    try:
        return Rig.model_validate(declared)
    except ValidationError as error:
        raise PyinfraError(explain(error, "rig", name)) from None


def _with_cards(box: Host, rig: Rig) -> Rig:
    """The rig with its architectures, where they are to be those of the box's cards."""
    if not any(build.takes_architectures_of_cards for build in rig.builds):
        return rig
    if box not in _CARDS:
        _CARDS[box] = read_once(Gpus) if box.name == host.name else box.get_fact(Gpus)
    return with_architectures_of(_CARDS[box].gpus, rig)


def _others(this: Host, rig: Rig) -> dict[str, Rig]:
    """Every other host of the inventory that declares a rig; with its cards, where a build is shared with it.

    :raises SharingError: when such a box is not part of this run
    """
    ours = {(build.name, build.built_by) for build in rig.builds if build.built_by}
    found = {}
    for other in state.inventory:
        declared = other.data.get("rig")
        if other is this or not isinstance(declared, dict):
            continue
        its = _rig(declared, other.name)
        open_ = [b.name for b in its.builds if (b.name, b.built_by) in ours and b.takes_architectures_of_cards]
        if open_ and other not in state.active_hosts:
            raise SharingError(
                f"build {open_[0]!r} is compiled for the cards of every box that shares it, and {other.name} is not "
                "part of this run or was not reached: run with all of them, or declare the build's architectures"
            )
        found[other.name] = _with_cards(other, its) if open_ else its
    return found
