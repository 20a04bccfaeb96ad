"""The CUDA toolkit for a box: one that its driver runs, and that compiles for its cards with its glibc and g++."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from llamarig.declare.build import CUDA_FROM_PYPI, Build, GitSource
from llamarig.facts.compilers import Compilers
from llamarig.facts.cuda_toolkits import Version
from llamarig.items.compilers import compile_differences
from llamarig.items.cuda_support import oldest_driver


@dataclass(frozen=True)
class Needs:
    """What decides about a toolkit. ``driver``: series of NVIDIA's driver, 0 where none answers yet."""

    architectures: tuple[str, ...]
    driver: int
    compilers: Compilers
    installed: Mapping[str, Version]
    """Path -> version of the toolkits that the owner has installed."""


def cuda_build(needs: Needs) -> Build | None:
    """The build with the newest toolkit that fits: of PyPI, else one that is installed; None where none fits."""
    return next((build for build in _candidates(needs) if not misfits(build, needs)), None)


def misfits(build: Build, needs: Needs) -> str:
    """Why a toolkit does not fit; empty where it does."""
    version = build.toolkit_version or needs.installed.get(build.cuda_toolkit or "", (0, 0))
    if refusal := build.toolkit_refusal(needs.architectures, version):
        return refusal
    if needs.driver and needs.driver < oldest_driver(version):
        return f"CUDA {version[0]} needs driver {oldest_driver(version)} or newer, and this is {needs.driver}"
    differences = compile_differences([build], needs.compilers, needs.installed)
    return differences[0].found if differences else ""


def compiler_remedy(build: Build, needs: Needs) -> str:
    """What to do where a toolkit does not compile with the box's glibc or g++."""
    return "; ".join(each.remedy for each in compile_differences([build], needs.compilers, needs.installed))


def newest_from_pypi(architectures: Sequence[str]) -> Build | None:
    """A build with the newest toolkit of PyPI; None where that does not compile for these architectures."""
    try:
        return build_with(CUDA_FROM_PYPI[-1], architectures)
    except ValidationError:
        return None


def build_with(toolkit: str, architectures: Sequence[str]) -> Build:
    """A CUDA build.

    :raises ValidationError: where the toolkit does not compile for these architectures
    """
    return Build(name="cuda", source=GitSource(), architectures=tuple(architectures), cuda_toolkit=toolkit)


def _candidates(needs: Needs) -> list[Build]:
    by_path = sorted(needs.installed, key=lambda path: (needs.installed[path], path), reverse=True)
    found = []
    for toolkit in (*reversed(CUDA_FROM_PYPI), *by_path):
        try:
            found.append(build_with(toolkit, needs.architectures))
        except ValidationError:  # it does not compile for these architectures
            continue
    return found
