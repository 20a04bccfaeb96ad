"""Which CUDA toolkits compile on a box: its C library and the C++ compiler that nvcc calls there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tasks.planning.difference import Difference
from tasks.planning.gpus import Version, oldest_driver, toolkit_version
from tasks.spec.build import CUDA_FROM_PYPI, Build

_HOST_COMPILER = "CMAKE_CUDA_HOST_COMPILER"
"""What an owner sets to have nvcc call another compiler than the default one."""

_SYSTEM = "/usr"
"""A toolkit whose headers are the system's own, among which two declarations of a function may differ.

CUDA 13.0 copied there compiled with glibc 2.43 (tests/gpu/RESULTS.md).
"""


@dataclass(frozen=True)
class Limits:
    """What a CUDA toolkit's headers compile with."""

    newest_gcc: int | None = None
    """The newest major version of GCC that crt/host_config.h does not refuse; None where it is not known."""
    glibc_before: Version | None = None
    """The first glibc it does not compile with, None where none is known."""


RSQRT_SINCE = (2, 42)
"""The first glibc that declares rsqrt, ``noexcept``: a crt/math_functions.h that declares it without does not compile.

llama.cpp #19100 and #23205; from CUDA 13.2 on the header has _NV_RSQRT_SPECIFIER for it.
"""

FROM_PYPI: Mapping[str, Limits] = {
    "13.0": Limits(15, RSQRT_SINCE),
    "13.1": Limits(15, RSQRT_SINCE),
    "13.2": Limits(15),
    "13.3": Limits(15),
    "13.4": Limits(16),
    "13.5": Limits(16),
}
"""Read in the headers of the locked wheels (crt/host_config.h of nvidia-cuda-crt, crt/math_functions.h beside it).

tests/planning/test_compilers.py compares them with what the wheels' headers answered, tests/box/test_cuda_build.py with
the headers of the toolkits that it installs.
"""


@dataclass(frozen=True)
class ToolkitHere:
    """A toolkit that the owner installed, as its own headers and its own nvcc describe it.

    A distribution may patch the headers or give nvcc a compiler of its own (Debian's calls an older g++), so these
    count more than NVIDIA's version number.
    """

    limits: Limits | None = None
    """None where its headers could not be read."""
    gcc: int | None = None
    """Major version of the GCC that its nvcc calls; None where that could not be found out."""


@dataclass(frozen=True)
class Compilers:
    """What a box compiles with. None where it is not known: it is then left to the compiler itself."""

    glibc: Version | None = None
    gcc: int | None = None
    """Major version of the installed GCC; where there is none, of the one that the distribution would install."""
    is_installed: bool = False
    """Whether ``gcc`` is installed already."""
    toolkits: Mapping[str, ToolkitHere] = field(default_factory=dict)
    """Path -> the toolkits that builds declare by path."""


def compile_differences(builds: Iterable[Build], box: Compilers, toolkits: Mapping[str, Version]) -> list[Difference]:
    """The CUDA builds whose toolkit does not compile with the box's glibc or GCC, each with the oldest one that does.

    :param toolkits: path -> version, of the toolkits that builds declare by path
    """
    found = (_difference(build, box, toolkits) for build in builds if build.backend == "cuda")
    return [difference for difference in found if difference is not None]


def oldest_that_compiles(glibc: Version | None, gcc: int | None) -> str | None:
    """The smallest version with a lock that compiles with this glibc and GCC; None where none does."""
    fitting = (name for name in CUDA_FROM_PYPI if _takes_glibc(FROM_PYPI[name], glibc))
    return next((name for name in fitting if _takes_gcc(FROM_PYPI[name], gcc)), None)


def _difference(build: Build, box: Compilers, toolkits: Mapping[str, Version]) -> Difference | None:
    version = toolkit_version(build, toolkits)
    # With flags of their own, owners may compile what the headers alone would not: nvcc judges those.
    if version is None or "CMAKE_CUDA_FLAGS" in build.cmake:
        return None
    here = box.toolkits.get(build.cuda_toolkit or "", ToolkitHere())
    limits = here.limits or FROM_PYPI.get(_dotted(version), Limits())
    # Where a compiler is installed and a toolkit's own nvcc does not name it, it may be another than the default one.
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
    to_come = "" if box.is_installed or here.gcc else ", which its distribution would install"
    has = [
        *([f"glibc {_dotted(box.glibc)}"] if box.glibc else []),
        *([f"g++ {called}{to_come}"] if called else []),
    ]
    return Difference(
        f"build {build.name}",
        f"CUDA {_dotted(version)}, which compiles with {' and '.join(takes)}",
        f"this box has {' and '.join(has)}",
        remedy=_remedy(version, limits if glibc_fits else None, oldest_that_compiles(box.glibc, default)),
        by_deploy=False,
    )


def _remedy(version: Version, keeps: Limits | None, oldest: str | None) -> str:
    """``keeps``: limits of the declared toolkit, where it lacks nothing but another compiler."""
    words = []
    if oldest is not None:
        # A CUDA 12 toolkit may be declared for an older driver's sake.
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
