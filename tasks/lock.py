"""What has the Hub newer than the model lock? `pyinfra -y inventory/home.py tasks/lock.py` tells, and changes nothing.

``--data update=NAME[,NAME]`` (or ``update=all``) moves the lock of these models to it; the next deploy fetches it.
"""

from __future__ import annotations

from pyinfra.context import host

from tasks.box import rig_of_host
from tasks.operations import upstream

upstream.compared(
    name="Model lock against the Hub",
    rig=rig_of_host(),
    update=tuple(name for name in str(host.data.get("update") or "").split(",") if name),
)
