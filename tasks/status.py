"""Show what runs on the boxes: `pyinfra -y inventory/home.py tasks/status.py`. Changes nothing.

For each model: since when it runs, its release, address and context, the speed of its last request, its queue, and the
memory that it holds and was planned to hold; downloads and builds under way; and whether the box is as declared.
"""

from __future__ import annotations

from llamarig.commands import status
from llamarig.engine.connection import require_root, set_tcp_nodelay
from llamarig.engine.rig_of_host import rig_of_host

set_tcp_nodelay()
require_root()
status.shown(name="Status", rig=rig_of_host())
