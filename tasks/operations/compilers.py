"""CUDA toolkits and the box's own compilers, before an hour of compiling that must end in an error."""

from __future__ import annotations

from pyinfra.api.operation import operation
from pyinfra.context import host

from tasks.facts.compilers import CompilersFound
from tasks.operations import Commands, closes
from tasks.operations.gpus import read_toolkits
from tasks.operations.long_work import to_build_here
from tasks.operations.once import read_once
from tasks.operations.refuse import refuse
from tasks.planning.checks.llama_cpp import ReleasesWhole
from tasks.planning.compilers import compile_differences
from tasks.planning.gpus import declared_toolkits
from tasks.spec.rig import Rig


@operation()
@closes(ReleasesWhole)
def suit_the_toolkits(rig: Rig) -> Commands:
    """Every CUDA build that this box has yet to make can be compiled here. Never a change.

    A release that is whole needs no compiler, whatever became of the box's since.
    """
    builds = [build for build, _ in to_build_here(rig) if build.backend == "cuda"]
    if not builds:
        host.noop("no CUDA build is to be compiled here")
        return
    compilers = read_once(CompilersFound, paths=declared_toolkits(builds))
    if differences := compile_differences(builds, compilers, read_toolkits(rig)):
        yield from refuse("CUDA toolkit, C library and compiler do not go together", map(str, differences))
        return
    host.noop("nothing known stands between toolkits and compilers")
