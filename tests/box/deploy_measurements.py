"""The items that measure declared placements and plan the others, on what deploy_plan_prerequisites.py has made."""

from __future__ import annotations

from llamarig.engine.converge import converge
from llamarig.engine.rig_of_host import rig_of_host
from llamarig.items.plans import Measurements, ValidPlans

converge([Measurements(), ValidPlans()], rig_of_host())
