"""List what can be deleted from a box, with sizes and reasons: `pyinfra -y inventory/home.py tasks/prune.py`.

``--data delete=NAME[,NAME]`` deletes what it names, by the names of the list; nothing else is ever deleted. The newest
releases are kept: their number is ``host.keep_releases``, or N with ``--data keep=N``. ``--data takeover=1`` stops jobs
that are in the way of a deletion.
"""

from __future__ import annotations

from llamarig.commands import prune
from llamarig.engine.connection import require_root, set_tcp_nodelay
from llamarig.engine.rig_of_host import rig_of_host
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import host

set_tcp_nodelay()
require_root()
keep = host.data.get("keep")
if keep is not None and (not isinstance(keep, int) or keep < 0):
    raise PyinfraError(f"--data keep={keep!r} is not a number of releases: write for example --data keep=2")
prune.leftovers_deleted(
    name="Prune",
    rig=rig_of_host(),
    names=tuple(name for name in str(host.data.get("delete") or "").split(",") if name),
    keep=keep,
    takeover=bool(host.data.get("takeover")),
)
