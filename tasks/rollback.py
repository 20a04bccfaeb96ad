"""Return to the previous release: `pyinfra -y inventory/home.py tasks/rollback.py`.

Switches all models of the box, or one with ``--data model=NAME``. Nothing is compiled or downloaded.
``--data takeover=1`` stops jobs of other runs that are in its way.
"""

from __future__ import annotations

from llamarig.commands import rollback
from llamarig.engine.connection import set_tcp_nodelay
from llamarig.engine.rig_of_host import rig_of_host
from pyinfra.context import host

set_tcp_nodelay()
rollback.rolled_back(
    name="Rollback", rig=rig_of_host(), only=host.data.get("model"), takeover=bool(host.data.get("takeover"))
)
