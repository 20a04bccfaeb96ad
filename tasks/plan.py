"""Show which layers go where, and why: `pyinfra -y inventory/home.py tasks/plan.py`. Plans by dry runs on the box.

``--data model=NAME[,NAME]`` plans only these models. ``--data update=NAME[,NAME]`` (or ``update=all``) writes the plans
of these models into the plan file, which the next deploy uses. ``--data takeover=1`` stops jobs of other runs that are
in the way.
"""

from __future__ import annotations

from llamarig.commands.plan import headers_present, plans_shown
from llamarig.engine.connection import require_root, set_tcp_nodelay
from llamarig.engine.converge import converge
from llamarig.engine.rig_of_host import rig_of_host
from llamarig.items.placements import planned_models
from llamarig.items.simulated_gpus import SimulatedGpus
from pyinfra.context import host


def _names(key: str) -> tuple[str, ...]:
    return tuple(name for name in str(host.data.get(key) or "").split(",") if name)


set_tcp_nodelay()
require_root()
rig = rig_of_host()
if rig.simulated_gpus:
    converge([SimulatedGpus()], rig)
if models := planned_models(rig):
    headers_present(name="Headers", rig=rig.model_copy(update={"models": tuple(models)}))
takeover = bool(host.data.get("takeover"))
plans_shown(name="Plan", rig=rig, only=_names("model"), update=_names("update"), takeover=takeover)
