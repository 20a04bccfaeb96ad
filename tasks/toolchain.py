"""What builds and downloads need: the GPU's driver, the distribution's compilers, CUDA toolkits, the Hub client."""

from __future__ import annotations

from pathlib import Path

from pyinfra.api.deploy import deploy
from pyinfra.context import host

from tasks.box import rig_of_host
from tasks.operations import compilers, cuda_toolkit, driver, gpus, interpreter, packages, rocm, venvs
from tasks.planning import layout
from tasks.planning.packages import ROCM, wanted_packages

_FILES = Path(__file__).parent / "files"


@deploy("Toolchain")
def toolchain() -> None:
    """Driver and compilers by the distribution, Python packages by locks with hashes."""
    rig = rig_of_host()
    uses_cuda = any(build.backend == "cuda" for build in rig.builds)
    if uses_cuda:
        compilers.suit_the_toolkits(name="CUDA toolkits and compilers", rig=rig)
    if rig.host.nvidia_driver is not None:
        driver.installed(name="NVIDIA driver", rig=rig, driver=rig.host.nvidia_driver)
    packages.installed(name="Compilers and tools", wanted=wanted_packages(rig, host.name))
    interpreter.linked(name="Python", rig=rig)
    if any(build.backend == "hip" for build in rig.builds):
        rocm.installed(name="ROCm", wanted=ROCM)
    if uses_cuda:
        # Once more: which compiler comes may have been known to no package list of a fresh box.
        compilers.suit_the_toolkits(name="CUDA toolkits and installed compilers", rig=rig)
        gpus.fit_the_builds(name="Graphics cards and builds", rig=rig)
    venvs.locked(name="Hub client", path=layout.HUB_VENV, requirements=str(_FILES / "hub-requirements.txt"))
    for version in sorted({build.cuda_toolkit for build in rig.builds if build.cuda_toolkit}):
        if not version.startswith("/"):
            _cuda(version)


def _cuda(version: str) -> None:
    lock = str(_FILES / f"cuda-{version}-requirements.txt")
    venvs.locked(name=f"CUDA {version} from PyPI", path=f"{layout.CUDA}/{version}", requirements=lock)
    cuda_toolkit.linked(name=f"CUDA {version} as CMake expects it", version=version)
