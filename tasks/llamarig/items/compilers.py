"""Whether the declared CUDA toolkits compile with the box's glibc and GCC: refused before anything is compiled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llamarig.declare.build import CUDA_FROM_PYPI, Build
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Item, Query, Seen, Severity, query
from llamarig.facts.compilers import RSQRT_SINCE, Compilers, CompilersFound, Limits, ToolkitHere
from llamarig.facts.cuda_toolkits import ToolkitVersions, Version
from llamarig.items.cuda_support import cuda_builds, declared_toolkits, oldest_driver, read_versions, toolkit_version
from llamarig.items.packages import Packages
from llamarig.items.releases import builds_to_make, release_queries

_HOST_COMPILER = "CMAKE_CUDA_HOST_COMPILER"
"""The CMake variable with which an owner has nvcc call another compiler than the default one."""

_SYSTEM = "/usr"
"""A toolkit whose headers are system headers, for which compilers allow two declarations of a function to differ.

CUDA 13.0 copied there compiled with glibc 2.43 (tests/gpu/RESULTS.md).
"""


FROM_PYPI: Mapping[str, Limits] = {
    "13.0": Limits(15, RSQRT_SINCE),
    "13.1": Limits(15, RSQRT_SINCE),
    "13.2": Limits(15),
    "13.3": Limits(15),
    "13.4": Limits(16),
    "13.5": Limits(16),
}
"""CUDA version -> its limits, from crt/host_config.h and crt/math_functions.h of the locked nvidia-cuda-crt wheels.

tests/items/test_compilers.py compares them with what the wheels' headers answered, tests/box/test_cuda_build.py with
the headers of the toolkits that it installs.
"""


def compile_differences(builds: Iterable[Build], box: Compilers, toolkits: Mapping[str, Version]) -> list[Difference]:
    """One difference for each CUDA build whose toolkit does not compile with the box's glibc or GCC.

    :param toolkits: path -> version, of the toolkits that builds declare by path
    """
    found = (_difference(build, box, toolkits) for build in builds if build.backend == "cuda")
    return [difference for difference in found if difference is not None]


def oldest_that_compiles(glibc: Version | None, gcc: int | None) -> str | None:
    """The oldest toolkit from PyPI that compiles with this glibc and GCC; None if none does."""
    fitting = (name for name in CUDA_FROM_PYPI if _takes_glibc(FROM_PYPI[name], glibc))
    return next((name for name in fitting if _takes_gcc(FROM_PYPI[name], gcc)), None)


def _difference(build: Build, box: Compilers, toolkits: Mapping[str, Version]) -> Difference | None:
    version = toolkit_version(build, toolkits)
    # With CMAKE_CUDA_FLAGS of their own, owners may compile what the headers refuse.
    if version is None or "CMAKE_CUDA_FLAGS" in build.cmake:
        return None
    here = box.toolkits.get(build.cuda_toolkit or "", ToolkitHere())
    limits = here.limits or FROM_PYPI.get(_dotted(version), Limits())
    # A toolkit given by path may call another compiler than the default one, if its nvcc does not tell which.
    called = here.gcc or (None if build.toolkit_version is None and box.is_installed else box.gcc)
    default = box.gcc
    if _HOST_COMPILER in build.cmake:
        called = default = None
    glibc_fits = build.cuda_toolkit == _SYSTEM or _takes_glibc(limits, box.glibc)
    if glibc_fits and _takes_gcc(limits, called):
        return None
    takes = [
        *([f"glibc before {_dotted(limits.glibc_before)}"] if limits.glibc_before else []),
        *([f"g++ {limits.newest_gcc} or older"] if limits.newest_gcc else []),
    ]
    not_installed = "" if box.is_installed or here.gcc else ", which its distribution would install"
    has = [
        *([f"glibc {_dotted(box.glibc)}"] if box.glibc else []),
        *([f"g++ {called}{not_installed}"] if called else []),
    ]
    return Difference(
        f"build {build.name}",
        " and ".join(takes),
        f"CUDA {_dotted(version)} does not compile with {' and '.join(has)}",
        remedy=_remedy(version, limits if glibc_fits else None, oldest_that_compiles(box.glibc, default)),
        by_deploy=False,
    )


def _remedy(version: Version, keeps: Limits | None, oldest: str | None) -> str:
    """``keeps``: limits of the declared toolkit, if another compiler is all that it lacks."""
    words = []
    if oldest is not None:
        # A CUDA 12 toolkit may have been declared because of an older driver.
        needs = f" (it needs driver {oldest_driver((13, 0))} or newer)" if version[0] < 13 else ""
        words.append(f'declare cuda_toolkit="{oldest}", the oldest version from PyPI that compiles there{needs}')
    limits = keeps or (None if oldest else FROM_PYPI[CUDA_FROM_PYPI[-1]])
    if limits is not None and limits.newest_gcc is not None:
        another = f"install g++ {limits.newest_gcc} beside the other and declare "
        words.append(f'{another}cmake={{"{_HOST_COMPILER}": "/usr/bin/g++-{limits.newest_gcc}"}}')
    return ", or ".join(words)


def _takes_glibc(limits: Limits, glibc: Version | None) -> bool:
    return limits.glibc_before is None or glibc is None or glibc < limits.glibc_before


def _takes_gcc(limits: Limits, gcc: int | None) -> bool:
    return limits.newest_gcc is None or gcc is None or gcc <= limits.newest_gcc


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


class CompilableToolkits(Item):
    """Every CUDA toolkit with which a release is still to be built compiles with this box's glibc and g++.

    A complete release no longer needs a compiler.
    """

    name = "CUDA toolkits and compilers"
    check = "llama.toolkits"
    severity = Severity.ERROR

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing where this box compiles no CUDA build."""
        if builds := cuda_builds(rig):
            yield from release_queries(rig)
            yield query(CompilersFound, paths=declared_toolkits(builds))
            if paths := declared_toolkits(rig.builds):
                yield query(ToolkitVersions, paths=paths)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each build whose toolkit does not compile here; the owner decides what to install instead."""
        if not cuda_builds(rig):
            return []
        builds = [build for build, _ in builds_to_make(rig, seen) if build.backend == "cuda"]
        if not builds:
            return []
        compilers = seen.get(CompilersFound, paths=declared_toolkits(cuda_builds(rig)))
        return compile_differences(builds, compilers, read_versions(rig, seen))


class CompilableToolkitsInstalled(CompilableToolkits):
    """The same after the compilers are installed: a fresh box's package lists may not tell which version will come."""

    name = "CUDA toolkits and installed compilers"
    needs = (CompilableToolkits, Packages)
    audited = False
