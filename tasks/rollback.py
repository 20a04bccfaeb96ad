"""Back to the previous release in one command: `pyinfra -y inventory/home.py tasks/rollback.py`.

The whole box, or one model with ``--data model=NAME``. Nothing is compiled or fetched.
"""

from __future__ import annotations

from pyinfra.context import host

from tasks.box import rig_of_host
from tasks.connection import send_at_once
from tasks.operations import rollback

send_at_once()
rollback.rolled_back(name="Rollback", rig=rig_of_host(), only=host.data.get("model"))
