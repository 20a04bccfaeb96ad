"""The box at hand: its declaration, read back from pyinfra's host data."""

from __future__ import annotations

from pydantic import ValidationError
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import host

from tasks.facts.gpus import Gpus
from tasks.operations.once import read_once
from tasks.planning.gpus import with_architectures_of
from tasks.spec.base import explain
from tasks.spec.rig import Rig


def rig_of_host() -> Rig:
    """What this host should be.

    :raises PyinfraError: when no group of the host declares a rig, or ``--data`` has broken it
    """
    declared = host.data.get("rig")
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
    try:
        rig = Rig.model_validate(declared)
    except ValidationError as error:
        raise PyinfraError(explain(error, "rig", host.name)) from None
    if not any(build.takes_architectures_of_cards for build in rig.builds):
        return rig
    rig = with_architectures_of(read_once(Gpus).gpus, rig)
    # Cards do not change during a run: the rooms that follow need not ask again.
    host.data.rig = rig.to_json()
    return rig
