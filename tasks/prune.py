"""What could go from a box? `pyinfra -y inventory/home.py tasks/prune.py` lists it, with sizes and why.

Deleted is only what is named: ``--data delete=NAME[,NAME]``, with names as the list prints them. The newest releases
stay, as many as ``host.keep_releases`` or ``--data keep=N`` says.
"""

from __future__ import annotations

from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import host

from tasks.box import rig_of_host
from tasks.connection import send_at_once
from tasks.operations import prune

send_at_once()
keep = host.data.get("keep")
if keep is not None and (not isinstance(keep, int) or keep < 0):
    raise PyinfraError(f"keep = {keep!r} is no number of releases: write --data keep=2")
prune.leftovers_deleted(
    name="Prune",
    rig=rig_of_host(),
    names=tuple(name for name in str(host.data.get("delete") or "").split(",") if name),
    keep=keep,
)
