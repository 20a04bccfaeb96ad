"""Only the operation that measures declared placements and plans the others, on what planning_ground.py has made."""

from __future__ import annotations

from tasks.box import rig_of_host
from tasks.operations import planning

planning.models_planned(name="Models planned", rig=rig_of_host())
