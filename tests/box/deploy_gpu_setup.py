"""The item of deploy.py that sets up the cards, and no other."""

from llamarig.engine.converge import converge
from llamarig.engine.rig_of_host import rig_of_host
from llamarig.items.gpu_setup import GpuSetup

converge([GpuSetup()], rig_of_host())
