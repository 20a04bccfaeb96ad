"""Switch to another declared model: `pyinfra -y inventory/home.py tasks/switch.py --data model=NAME`.

The model that may not run beside it is stopped, it is started, its answers are checked, and the time is shown. Where it
does not answer, what served before serves again. After a boot, the declared default serves.
``--data takeover=1`` stops jobs of other runs that are in its way.
"""

from __future__ import annotations

from llamarig.commands import switch
from llamarig.engine.connection import require_root, set_tcp_nodelay
from llamarig.engine.rig_of_host import rig_of_host
from pyinfra.context import host

set_tcp_nodelay()
require_root()
switch.switched(
    name="Switch",
    rig=rig_of_host(),
    model=str(host.data.get("model") or ""),
    takeover=bool(host.data.get("takeover")),
)
