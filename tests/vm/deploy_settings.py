"""Deploy only the items that install nothing: the others would take too long on an emulated processor."""

from llamarig.checks.memory_speed_note import MemorySpeedNote
from llamarig.engine.converge import converge
from llamarig.engine.rig_of_host import rig_of_host
from llamarig.items.base_system import Directories, Programs, ServiceUser
from llamarig.items.swappiness import Swappiness

converge([MemorySpeedNote(), Swappiness(), ServiceUser(), Directories(), Programs()], rig_of_host())
