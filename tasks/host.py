"""The machine itself: swap policy, RAM speed, and the places and programs everything else stands on."""

from __future__ import annotations

import io
from pathlib import Path

from pyinfra.api.deploy import deploy
from pyinfra.operations import files, server

from tasks.box import rig_of_host
from tasks.operations import ground, memory
from tasks.planning import layout

_TASKS = Path(__file__).parent
_PROGRAMS = (
    *sorted((_TASKS / "files").glob("*.py")),
    _TASKS / "files" / "simulated_gpu.cpp",
    _TASKS / "planning" / "gguf_header.py",
    _TASKS / "planning" / "instruction_sets.py",
    _TASKS / "planning" / "plans" / "server_log.py",
)


@deploy("Host")
def host_settings() -> None:
    """Settings of the box, its service user, its directories, and our programs on it."""
    rig = rig_of_host()
    memory.speed_reported(name="RAM speed", rig=rig)
    if rig.host.swappiness is not None:
        _swappiness(rig.host.swappiness)
    ground.service_user(name="Service user", user=layout.USER, home=layout.STATE)
    ground.directories(name="Directories", paths=layout.DIRECTORIES)
    ground.programs(
        name="Programs",
        sources={str(path): f"{layout.PROGRAMS}/tasks/{path.relative_to(_TASKS)}" for path in _PROGRAMS},
    )


def _swappiness(value: int) -> None:
    # pyinfra's own `persist` leaves old values behind in its file; a file of our own holds exactly one.
    files.put(
        name="Swappiness after a reboot",
        src=io.StringIO(f"# Written by llamarig: keeps model weights in RAM.\nvm.swappiness = {value}\n"),
        dest=layout.SYSCTL_FILE,
        mode="644",
    )
    server.sysctl(name="Swappiness now", key="vm.swappiness", value=value)
