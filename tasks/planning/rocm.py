"""AMD's ROCm on a box, and whether llama.cpp's HIP backend can be compiled with it."""

from __future__ import annotations

import re
from dataclasses import dataclass

OPT = "/opt/rocm"
"""Where AMD's own packages put ROCm; llama.cpp takes it from there before it looks in /usr."""
_OLDEST = (6, 1)
"""From llama.cpp's ggml/src/ggml-hip/CMakeLists.txt at the pinned commit."""


@dataclass(frozen=True)
class Rocm:
    """``own``: version of what AMD's packages have put into /opt/rocm, ``offered``: of the distribution's HIP.

    Empty where there is none, or where it is not known.
    """

    own: str = ""
    offered: str = ""


def rocm_refusal(rocm: Rocm) -> str | None:
    """Why no HIP build can be made on a box; None where nothing is known against it."""
    if rocm.own:
        found = f"{OPT} is ROCm {rocm.own}"
    elif rocm.offered:
        found = f"this distribution has HIP {rocm.offered} and there is nothing in {OPT}"
    else:
        return None
    if tuple(int(part) for part in re.findall(r"\d+", rocm.own or rocm.offered)[:2]) >= _OLDEST:
        return None
    needed = ".".join(map(str, _OLDEST))
    return (
        f"a hip build needs ROCm {needed} or newer, and {found}: install AMD's own packages, or declare "
        'backend="vulkan", which needs no ROCm'
    )
