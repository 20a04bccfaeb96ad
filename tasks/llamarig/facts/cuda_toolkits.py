"""Versions of the CUDA toolkits that the owner has installed."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pyinfra.api.facts import FactBase

from llamarig.facts.output import parse_sections, sections_command

Version = tuple[int, int]
"""Version of a CUDA toolkit: 13.0 is (13, 0)."""


class ToolkitVersions(FactBase[dict[str, Version]]):
    """Path -> version, as nvcc reports it; paths without nvcc are left out.

    Output::

        == /opt/llamarig/cuda/13.0/lib/python3.13/site-packages/nvidia/cu13
        nvcc: NVIDIA (R) Cuda compiler driver
        Cuda compilation tools, release 13.0, V13.0.88

        == /usr
    """

    default = dict

    def command(self, paths: Iterable[str]) -> str:
        return sections_command({path: f"{path}/bin/nvcc --version" for path in sorted(paths)})

    def process(self, output: list[str]) -> dict[str, Version]:
        lines = parse_sections(output)
        found = {path: re.search(r"release (\d{1,3})\.(\d{1,3})", " ".join(lines[path])) for path in lines}
        return {path: (int(match[1]), int(match[2])) for path, match in found.items() if match}
