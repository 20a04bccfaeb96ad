"""Deploy only the items before the first build: tests of toolchains whose builds would take an hour."""

from itertools import takewhile

from llamarig.engine.connection import set_tcp_nodelay
from llamarig.engine.converge import converge
from llamarig.engine.rig_of_host import rig_of_host
from llamarig.items.all_items import ITEMS
from llamarig.items.shared_releases import RequestedReleases

set_tcp_nodelay()
converge(list(takewhile(lambda item: not isinstance(item, RequestedReleases), ITEMS)), rig_of_host())
