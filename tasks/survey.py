"""Survey boxes and write their declarations: `pyinfra -y inventory/home.py tasks/survey.py`. Changes no box.

For each kind of hardware that is not declared yet it writes group_data/<group>.py: cards, CUDA toolkit, driver, RAM,
processor, disk, with a place for models. A file that is there is never written again: of a box that declares a rig it
says what differs.
"""

from __future__ import annotations

from llamarig.commands.survey import survey
from llamarig.engine.connection import require_root, set_tcp_nodelay

set_tcp_nodelay()
require_root(or_any_user=True)
survey()
