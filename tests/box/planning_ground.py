"""What planning for a box that is not there stands on, without a plan: GPUs it does not have, headers of its models."""

from __future__ import annotations

from tasks.box import rig_of_host
from tasks.operations import header_files, model_lock, simulated_gpus

rig = rig_of_host()
model_lock.models_locked(name="Model lock", rig=rig)
simulated_gpus.built(name="Simulated GPUs", rig=rig)
header_files.present(name="Headers", rig=rig)
