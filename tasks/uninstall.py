"""List everything of llamarig's on a box: `pyinfra -y inventory/home.py tasks/uninstall.py`. Needs no declaration.

``--data delete=box`` stops all models and removes it: units, releases, settings and the service user. Model files stay;
each is deleted only by its name on the list, as ``--data delete=box,models/...``. Options:

    --data delete=NAME[,NAME]   box, and names of model files from the list
    --data takeover=1           stops jobs of other runs that are in its way
"""

from __future__ import annotations

from llamarig.commands import uninstall
from llamarig.engine.connection import set_tcp_nodelay
from pyinfra.context import host

set_tcp_nodelay()
uninstall.box_taken_back(
    name="Uninstall",
    names=tuple(name for name in str(host.data.get("delete") or "").split(",") if name),
    takeover=bool(host.data.get("takeover")),
)
