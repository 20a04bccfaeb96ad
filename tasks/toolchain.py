"""What builds and downloads need: the distribution's compilers, the CUDA toolkit, the Hub client."""

from __future__ import annotations

from pathlib import Path

from pyinfra.api.deploy import deploy
from pyinfra.api.exceptions import PyinfraError

from tasks.box import rig_of_host
from tasks.operations import cuda_toolkit, gpus, packages, venvs
from tasks.planning import layout
from tasks.planning.packages import wanted_packages

_FILES = Path(__file__).parent / "files"


@deploy("Toolchain")
def toolchain() -> None:
    """Compilers by the distribution, Python packages by locks with hashes."""
    rig = rig_of_host()
    backends = {build.backend for build in rig.builds}
    packages.installed(name="Compilers and tools", wanted=wanted_packages(backends))
    if "cuda" in backends:
        gpus.fit_the_builds(name="Graphics cards and builds", rig=rig)
    venvs.locked(name="Hub client", path=layout.HUB_VENV, requirements=str(_FILES / "hub-requirements.txt"))
    for version in sorted({build.cuda_toolkit for build in rig.builds if build.cuda_toolkit}):
        if not version.startswith("/"):
            _cuda(version)


def _cuda(version: str) -> None:
    lock = _FILES / f"cuda-{version}-requirements.txt"
    if not lock.exists():
        known = ", ".join(sorted(path.name.split("-")[1] for path in _FILES.glob("cuda-*-requirements.txt")))
        raise PyinfraError(f"there is no lock for CUDA {version} in tasks/files/; there is {known}")
    venvs.locked(name=f"CUDA {version} from PyPI", path=f"{layout.CUDA}/{version}", requirements=str(lock))
    cuda_toolkit.linked(name=f"CUDA {version} as CMake expects it", version=version)
