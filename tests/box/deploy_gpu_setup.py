"""Deploy only the item that sets up the graphics cards."""

from llamarig.engine.converge import converge
from llamarig.engine.rig_of_host import rig_of_host
from llamarig.items.gpu_setup import GpuSetup

converge([GpuSetup()], rig_of_host())
