"""The declaration of the current host, read from pyinfra's host data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.context import host, state

from llamarig.declare.mistakes import explain
from llamarig.declare.rig import Rig
from llamarig.engine.run import of_host, read_in_time
from llamarig.engine.shared_builds import SharingError, shared_builds
from llamarig.facts.gpus import Gpu, Gpus

_COMPLETE = "rig_is_complete"


def rig_of_host() -> Rig:
    """The rig that this host declares, with its shared builds and the architectures of its cards filled in.

    :raises PyinfraError: if no group of the host declares a rig, ``--data rig=...`` replaced it, or boxes that share a
        build declare it differently
    """
    this = state.inventory.get_host(host.name)
    declared = this.data.get("rig")
    if declared is None:
        raise PyinfraError(
            f"{host.name} is in no group that declares a rig: list it under one of the groups of group_data/ in its "
            "inventory file, or let tasks/survey.py write a file for its hardware"
        )
    if not isinstance(declared, dict):
        raise PyinfraError(
            f"{host.name}: rig = {str(declared)[:40]!r} is not a declaration: leave --data rig=... out, and declare "
            "the rig in group_data/ with d.rig(...)"
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
    # The next call of this run need not ask for the cards again.
    this.data.rig = rig.to_json()
    return rig


def _rig(declared: dict[str, Any], name: str) -> Rig:
    try:
        return Rig.model_validate(declared)
    except ValidationError as error:
        raise PyinfraError(explain(error, Rig, "rig", name)) from None


def _with_cards(box: Host, rig: Rig) -> Rig:
    """The rig, with the architectures of the box's cards in builds that declare none."""
    if not any(build.takes_architectures_of_cards for build in rig.builds):
        return rig
    cached = of_host(box)
    if cached.cards is None:
        cached.cards = read_in_time(box, Gpus)
    return with_architectures_of(cached.cards.gpus, rig)


def with_architectures_of(gpus: Iterable[Gpu], rig: Rig) -> Rig:
    """The rig with the architectures of these cards in every CUDA build that names none; unchanged without a card."""
    architectures = tuple(sorted({gpu.architecture for gpu in gpus}))
    builds = tuple(
        build.model_copy(update={"architectures": architectures}) if build.takes_architectures_of_cards else build
        for build in rig.builds
    )
    return rig.model_copy(update={"builds": builds})


def _others(this: Host, rig: Rig) -> dict[str, Rig]:
    """Host -> rig, of every other host that declares one; with its cards if a build shared with it needs them.

    :raises SharingError: if such a host is not part of this run
    """
    ours = {(build.name, build.built_by) for build in rig.builds if build.built_by}
    found = {}
    for other in state.inventory:
        declared = other.data.get("rig")
        if other is this or not isinstance(declared, dict):
            continue
        other_rig = _rig(declared, other.name)
        of_cards = [
            build.name
            for build in other_rig.builds
            if (build.name, build.built_by) in ours and build.takes_architectures_of_cards
        ]
        if of_cards and other not in state.active_hosts:
            raise SharingError(
                f"build {of_cards[0]!r} is compiled for the cards of every box that shares it, and {other.name} is not "
                "part of this run or was not reached: run with all of them, or declare the build's architectures"
            )
        found[other.name] = _with_cards(other, other_rig) if of_cards else other_rig
    return found
