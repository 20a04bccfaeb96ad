"""ROCm for HIP builds: AMD's own where it is there, else the distribution's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyinfra.api.operation import operation
from pyinfra.context import host

from tasks.facts.rocm import RocmFound
from tasks.operations import Commands, packages
from tasks.operations.once import read_once
from tasks.operations.refuse import refuse
from tasks.planning.rocm import rocm_refusal


@operation()
def installed(wanted: Mapping[str, Sequence[str]]) -> Commands:
    """A ROCm that llama.cpp can be compiled with; refused before gigabytes of an older one are installed.

    :param wanted: family (debian, arch, fedora) -> the distribution's packages
    """
    rocm = read_once(RocmFound)
    if refusal := rocm_refusal(rocm):
        yield from refuse(refusal)
    elif rocm.own:
        host.noop(f"ROCm {rocm.own} is there")
    else:
        yield from packages.installed._inner(wanted=wanted)
