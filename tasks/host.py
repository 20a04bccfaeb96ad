"""The machine itself: swap policy, RAM speed, power limits, and the places and programs everything else stands on."""

from __future__ import annotations

from pathlib import Path

from pyinfra.api.deploy import deploy

from tasks.box import rig_of_host
from tasks.operations import gpus, ground, key_files, memory
from tasks.planning import layout
from tasks.planning.key_files import key_paths

_TASKS = Path(__file__).parent
_OURS = (
    *sorted((_TASKS / "files").glob("*.py")),
    _TASKS / "files" / "simulated_gpu.cpp",
    _TASKS / "planning" / "gguf_header.py",
    _TASKS / "planning" / "instruction_sets.py",
    _TASKS / "planning" / "pinned_pages.py",
    _TASKS / "planning" / "plans" / "server_log.py",
)
PROGRAMS = {str(path): f"{layout.PROGRAMS}/tasks/{path.relative_to(_TASKS)}" for path in _OURS}
"""Our programs: path here -> path on the box."""


@deploy("Host")
def host_settings() -> None:
    """Settings of the box, its service user, its directories, and our programs on it."""
    rig = rig_of_host()
    if key_paths(rig):
        # First of all: what only the owner can mend is told before hours of work.
        key_files.key_files_usable(name="API key files", rig=rig)
    memory.speed_reported(name="RAM speed", rig=rig)
    if rig.host.swappiness is not None:
        memory.swappiness_set(name="Swappiness", value=rig.host.swappiness)
    if rig.host.gpus or any(build.backend != "cpu" for build in rig.builds):
        gpus.made_ready(name="GPUs made ready", rig=rig)
    ground.service_user(name="Service user", user=layout.USER, home=layout.STATE)
    ground.directories(name="Directories", paths=layout.DIRECTORIES)
    ground.programs(name="Programs", sources=PROGRAMS)
