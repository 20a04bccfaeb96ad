"""CUDA toolkits from PyPI, installed side by side from hash-checked locks, in the layout that CMake expects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyinfra.api.command import StringCommand
from pyinfra.facts.server import Command

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.facts.virtual_environments import VirtualEnvironment
from llamarig.items.graphics_cards import SupportedCards
from llamarig.items.python import Python
from llamarig.items.virtual_environments import create_environment, environment_differences
from llamarig.render import layout

_PARTS = ("bin/nvcc", "lib64/libcudart.so", "lib64/libcublas.so", "lib64/stubs/libcuda.so")


class CudaToolkits(Item):
    """Every CUDA toolkit that a build declares by version is installed from PyPI."""

    name = "CUDA toolkits"
    needs = (Python, SupportedCards)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The installed distributions of each version, and whether its layout is complete."""
        for version in versions(rig):
            yield query(VirtualEnvironment, path=f"{layout.CUDA}/{version}")
            yield query(Command, command=layout_command(version))

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """At most one for each version: its distributions, then its layout."""
        return [difference for version in versions(rig) for difference in _of_version(version, seen)]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Install the distributions of a version if they differ, and create its layout."""
        for version in versions(rig):
            path = f"{layout.CUDA}/{version}"
            if any(difference.what == path for difference in _of_version(version, seen)):
                yield from create_environment(path, seen.here.requirements[_lock(version)])
                yield from _create_layout(version)
            elif _of_version(version, seen):
                yield from _create_layout(version)


def versions(rig: Rig) -> list[str]:
    """Versions of the toolkits to install from PyPI; those declared by path are installed by the owner."""
    return sorted({name for build in rig.builds if (name := build.cuda_toolkit) and not name.startswith("/")})


def layout_command(version: str) -> str:
    """A command that prints ``linked`` if the layout is complete."""
    root = f"{layout.CUDA}/{version}/root"
    return f"cd {root} 2>/dev/null && {' && '.join(f'test -e {path}' for path in _PARTS)} && echo linked || true"


def _lock(version: str) -> str:
    return f"cuda-{version}-requirements.txt"


def _of_version(version: str, seen: Seen) -> list[Difference]:
    path = f"{layout.CUDA}/{version}"
    installed_there = seen.get(VirtualEnvironment, path=path)
    if found := environment_differences(path, installed_there, seen.here.requirements[_lock(version)]):
        return found
    if seen.get(Command, command=layout_command(version)) == "linked":
        return []
    return [Difference(f"{path}/root", "the directories that CMake looks for", "incomplete")]


def _create_layout(version: str) -> Commands:
    """``<toolkit>/root`` as CMake expects it: bin, include, lib64, plain library names, a stub of the driver."""
    base = f"{layout.CUDA}/{version}"
    # The wheels share one root and bring only versioned library names (libcudart.so.13).
    yield StringCommand(
        f"ln -sfn $(echo {base}/lib/python3*/site-packages/nvidia/cu{version.split('.')[0]}) {base}/root && "
        f"ln -sfn lib {base}/root/lib64 && cd {base}/root/lib && "
        'for library in *.so.*; do ln -sf "$library" "${library%%.so.*}.so"; done && '
        f"{base}/root/bin/nvcc --version"
    )
    # A stub, as NVIDIA's installer has one: all functions of the driver without their code, to link against on a box
    # without a driver. At run time the driver's own libcuda.so.1 is loaded.
    yield StringCommand(
        f"cd {base}/root && mkdir -p lib/stubs && "
        "echo '#include <cuda.h>' | cc -E -I include - | grep -oE '\\bcu[A-Z][A-Za-z0-9_]*[[:space:]]*\\(' "
        "| tr -d ' (' | sort -u | sed 's/.*/int &(void) { return 999; }/' >lib/stubs/stub.c && "
        "cc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o lib/stubs/libcuda.so lib/stubs/stub.c && "
        "grep -q cuMemCreate lib/stubs/stub.c"
    )
