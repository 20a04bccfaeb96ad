"""ROCm for HIP builds: AMD's own packages if they are installed, else the distribution's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.facts.rocm import OPT, Rocm, RocmFound
from llamarig.items.packages import ROCM, install_missing, package_differences, package_queries

_OLDEST = (6, 1)
"""From llama.cpp's ggml/src/ggml-hip/CMakeLists.txt at the pinned commit."""


def rocm_refusal(rocm: Rocm) -> str | None:
    """Why a box cannot compile HIP builds; None if no reason is known."""
    if rocm.own:
        found = f"{OPT} is ROCm {rocm.own}"
    elif rocm.offered:
        found = f"this distribution has HIP {rocm.offered}, and {OPT} is empty"
    else:
        return None
    if tuple(int(part) for part in re.findall(r"\d+", rocm.own or rocm.offered)[:2]) >= _OLDEST:
        return None
    needed = ".".join(map(str, _OLDEST))
    return (
        f"a hip build needs ROCm {needed} or newer, and {found}: install AMD's own packages, or declare "
        'backend="vulkan", which needs no ROCm'
    )


class RocmInstalled(Item):
    """If a build declares the HIP backend, a ROCm is installed that can compile it."""

    name = "ROCm"

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing if no build is for HIP."""
        if _is_wanted(rig):
            yield query(RocmFound)
            yield from package_queries()

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """At most one: a ROCm that is too old is refused before gigabytes of it are installed."""
        if not _is_wanted(rig):
            return []
        rocm = seen.get(RocmFound)
        if refusal := rocm_refusal(rocm):
            return [Difference.refusal_of("ROCm", f"{'.'.join(map(str, _OLDEST))} or newer", refusal)]
        return [] if rocm.own else package_differences(ROCM, seen)

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Install the distribution's packages."""
        yield from install_missing(ROCM, seen)


def _is_wanted(rig: Rig) -> bool:
    return any(build.backend == "hip" for build in rig.builds)
