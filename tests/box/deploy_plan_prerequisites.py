"""Everything a plan needs, but no plan: a model lock, the library that simulates GPUs, the headers of the models."""

from __future__ import annotations

from llamarig.commands.plan import headers_present
from llamarig.declare.simulated_gpu import SimulatedGpu
from llamarig.engine.converge import converge
from llamarig.engine.rig_of_host import rig_of_host
from llamarig.items.model_lock import LockedModels
from llamarig.items.simulated_gpus import SimulatedGpus

CARD = SimulatedGpu(name="any", total_mib=1000, free_mib=900)

rig = rig_of_host()
# The library is the same for all cards; where a rig declares none it would not be compiled.
simulating = rig if rig.simulated_gpus else rig.model_copy(update={"simulated_gpus": (CARD,)})
converge([LockedModels(), SimulatedGpus()], simulating)
headers_present(name="Headers", rig=rig)
