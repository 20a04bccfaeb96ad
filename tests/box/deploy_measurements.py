"""Deploy only the items that measure and plan placements; run after deploy_plan_prerequisites.py."""

from __future__ import annotations

from llamarig.engine.converge import converge
from llamarig.engine.rig_of_host import rig_of_host
from llamarig.items.plans import Measurements, ValidPlans

converge([Measurements(), ValidPlans()], rig_of_host())
