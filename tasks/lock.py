"""Compare the model lock with the Hub: `pyinfra -y inventory/home.py tasks/lock.py`. Changes nothing by default.

``--data update=NAME[,NAME]`` (or ``update=all``) updates the entries of these models; the next deploy fetches them.
"""

from __future__ import annotations

from llamarig.commands import hub_updates
from llamarig.engine.rig_of_host import rig_of_host
from pyinfra.context import host

hub_updates.compared(
    name="Model lock against the Hub",
    rig=rig_of_host(),
    update=tuple(name for name in str(host.data.get("update") or "").split(",") if name),
)
