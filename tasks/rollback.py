"""Return to what answered before: `pyinfra -y inventory/home.py tasks/rollback.py`.

Every model of the box, or one with ``--data model=NAME``, gets the unit that answered before the one it has, with the
release and the flags that it names. Nothing is compiled or downloaded.
``--data takeover=1`` stops jobs of other runs that are in its way.
"""

from __future__ import annotations

from llamarig.commands import rollback
from llamarig.engine.connection import require_root, set_tcp_nodelay
from llamarig.engine.rig_of_host import rig_of_host
from pyinfra.context import host

set_tcp_nodelay()
require_root()
rollback.rolled_back(
    name="Rollback", rig=rig_of_host(), only=host.data.get("model"), takeover=bool(host.data.get("takeover"))
)
