"""Deploy without system packages and Hub client: for a machine with a GPU that has them already, but no network."""

from llamarig.engine.converge import converge
from llamarig.engine.rig_of_host import rig_of_host
from llamarig.items.all_items import ITEMS
from llamarig.items.packages import Packages
from llamarig.items.virtual_environments import HubClient

converge([item for item in ITEMS if not isinstance(item, Packages | HubClient)], rig_of_host())
