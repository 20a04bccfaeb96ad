"""The models as systemd units, each proved by an answer before it is trusted."""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from tasks.box import rig_of_host
from tasks.operations import lints, liveness, planning, presets, serving, simulated_gpus


@deploy("Services")
def services() -> None:
    """Units in place, the declared models running."""
    rig = rig_of_host()
    if rig.simulated_gpus:
        simulated_gpus.built(name="Simulated GPUs", rig=rig)
    planning.models_planned(name="Models planned", rig=rig)
    lints.models_linted(name="Declarations linted", rig=rig)
    serving.models_served(name="Models served", rig=rig)
    if rig.presets is not None:
        presets.written(name="Model presets", rig=rig)
    liveness.servers_watched(name="Liveness probe", rig=rig)
