"""Which layers go where, and why? `pyinfra -y inventory/home.py tasks/plan.py` plans by dry runs, and changes nothing.

``--data model=NAME[,NAME]`` plans these alone; ``--data update=NAME[,NAME]`` (or ``update=all``) writes the plan of
these models into the plan file, from which the next deploy serves.
"""

from __future__ import annotations

from pyinfra.context import host

from tasks.box import rig_of_host
from tasks.connection import send_at_once
from tasks.operations import header_files, planning, simulated_gpus
from tasks.operations.plan_file import planned_by_us


def _names(key: str) -> tuple[str, ...]:
    return tuple(name for name in str(host.data.get(key) or "").split(",") if name)


send_at_once()
rig = rig_of_host()
if rig.simulated_gpus:
    simulated_gpus.built(name="Simulated GPUs", rig=rig)
if models := planned_by_us(rig):
    header_files.present(name="Headers", rig=rig.model_copy(update={"models": tuple(models)}))
planning.plans_shown(name="Plan", rig=rig, only=_names("model"), update=_names("update"))
