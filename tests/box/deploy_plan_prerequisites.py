"""Deploy what a plan needs, but make no plan: model lock, library of simulated GPUs, model headers."""

from __future__ import annotations

from llamarig.commands.plan import headers_present
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.engine.converge import converge
from llamarig.engine.rig_of_host import rig_of_host
from llamarig.items.model_lock import LockedModels
from llamarig.items.simulated_gpus import SimulatedGpus

CARD = SimulatedGpu(name="any", total_mib=1000, free_mib=900)

rig = rig_of_host()
# The library does not depend on the cards, but it is compiled only for a rig that declares simulated ones.
rig_with_cards = rig if rig.simulated_gpus else rig.model_copy(update={"simulated_gpus": (CARD,)})
converge([LockedModels(), SimulatedGpus()], rig_with_cards)
headers_present(name="Headers", rig=rig)
