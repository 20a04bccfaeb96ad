"""What could go from a box? `pyinfra -y inventory/home.py tasks/prune.py` lists it, with sizes and why.

Deleted is only what is named: ``--data delete=NAME[,NAME]``, with names as the list prints them.
"""

from __future__ import annotations

from pyinfra.context import host

from tasks.box import rig_of_host
from tasks.connection import send_at_once
from tasks.operations import prune

send_at_once()
prune.leftovers_deleted(
    name="Prune",
    rig=rig_of_host(),
    names=tuple(name for name in str(host.data.get("delete") or "").split(",") if name),
)
