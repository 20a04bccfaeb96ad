"""What a deploy's operations ask an unchanged box one by one, so that an audit can ask all of it at once.

What is missing here costs time and nothing else: it is then asked when it is wanted.
"""

from __future__ import annotations

from collections.abc import Collection

from pyinfra.facts.deb import DebPackages
from pyinfra.facts.files import File
from pyinfra.facts.pacman import PacmanPackages
from pyinfra.facts.rpm import RpmPackages
from pyinfra.facts.server import Command

from tasks.facts.capacity import Capacity
from tasks.facts.driver import NvidiaPackages
from tasks.facts.files import Ownership, Sha256Sums, UserExists
from tasks.facts.interpreters import Interpreters
from tasks.facts.key_files import KeyFiles
from tasks.facts.model_store import ModelStore
from tasks.facts.proofs import BackOffs
from tasks.facts.releases import Releases
from tasks.facts.rocm import RocmFound
from tasks.facts.simulated_gpus import WholeSimulations
from tasks.facts.together import Asked
from tasks.facts.unit_files import UnitFiles
from tasks.facts.units import Units
from tasks.facts.venvs import VirtualEnvironment
from tasks.operations import cuda_toolkit, interpreter, packages, presets
from tasks.operations.long_work import release_directories
from tasks.operations.plan_file import planned_by_us
from tasks.operations.serving import health_addresses
from tasks.operations.simulated_gpus import simulation_directories
from tasks.planning import layout
from tasks.planning.driver import asked_for
from tasks.planning.key_files import key_paths
from tasks.planning.liveness import SERVICE, TIMER
from tasks.planning.pinned_weights import wants_measuring
from tasks.spec.rig import Rig


def asked_by_deploy(rig: Rig, programs: Collection[str]) -> list[Asked]:
    """Facts and their arguments, as the operations write them.

    :param programs: paths there of our programs, in their order
    """
    asked: list[Asked] = [
        (UserExists, {"user": layout.USER}),
        (Ownership, {"paths": list(layout.DIRECTORIES)}),
        (Sha256Sums, {"paths": list(programs)}),
        # The package managers of other families are not there and say so at once.
        *((File, {"path": path}) for path in (packages.APT, packages.PACMAN, packages.DNF)),
        *((fact, {}) for fact in (DebPackages, PacmanPackages, RpmPackages)),
        (Interpreters, {"paths": interpreter.LOOKED_AT}),
        (VirtualEnvironment, {"path": layout.HUB_VENV}),
        (Releases, {"directories": release_directories(rig)}),
        (ModelStore, {}),
        (Units, {"health": health_addresses(rig)}),
        (UnitFiles, {"names": [SERVICE, TIMER]}),
    ]
    if paths := key_paths(rig):
        asked.append((KeyFiles, {"paths": paths}))
    if rig.host.swappiness is not None:
        asked += [(fact, {"paths": [layout.SYSCTL_FILE]}) for fact in (Sha256Sums, Ownership)]
    asked += _asked_about_gpus(rig)
    if planned_by_us(rig):
        asked.append((BackOffs, {}))
    if any(wants_measuring(rig, model) for model in rig.models) or (planned_by_us(rig) and not rig.simulated_gpus):
        asked.append((Capacity, {}))
    if rig.simulated_gpus:
        asked.append((WholeSimulations, {"directories": simulation_directories(rig)}))
    if rig.presets is not None:
        asked.append((Sha256Sums, {"paths": [presets.preset_path(rig.presets)]}))
    return asked


def _asked_about_gpus(rig: Rig) -> list[Asked]:
    asked: list[Asked] = []
    if rig.host.gpus or any(build.backend != "cpu" for build in rig.builds):
        asked.append((UnitFiles, {"names": [layout.GPUS_UNIT]}))
    if rig.host.nvidia_driver is not None:
        asked.append((NvidiaPackages, {"packages": asked_for(rig.host.nvidia_driver)}))
    if any(build.backend == "hip" for build in rig.builds):
        asked.append((RocmFound, {}))
    for name in sorted({build.cuda_toolkit for build in rig.builds if build.cuda_toolkit}):
        if not name.startswith("/"):
            asked += [
                (VirtualEnvironment, {"path": f"{layout.CUDA}/{name}"}),
                (Command, {"command": cuda_toolkit.question(name)}),
            ]
    return asked
