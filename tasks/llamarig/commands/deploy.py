"""Converge a box with its declaration."""

from __future__ import annotations

from pyinfra.context import config, host

from llamarig.checks.memory_speed_note import MemorySpeedNote
from llamarig.checks.sandbox_note import SandboxNote
from llamarig.engine.connection import require_root, set_tcp_nodelay
from llamarig.engine.converge import converge
from llamarig.engine.rig_of_host import rig_of_host
from llamarig.engine.screen import say
from llamarig.items.all_items import ITEMS


def deploy() -> None:
    """Converge the current host; deploy.py calls this for each host.

    :raises PyinfraError: if the host declares no rig
    """
    config.REQUIRE_PYINFRA_VERSION = "~=3.10"
    set_tcp_nodelay()
    require_root()
    rig = rig_of_host()
    if host.data.get("deep"):
        say(host, "reading every byte of the model files")
    if host.data.get("takeover"):
        say(host, "stopping the jobs of other runs that are in the way")
    converge((MemorySpeedNote(), SandboxNote(), *ITEMS), rig)
