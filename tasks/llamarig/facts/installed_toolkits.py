"""Where the owner of a box has installed CUDA toolkits."""

from __future__ import annotations

from pyinfra.api.facts import FactBase


class InstalledToolkits(FactBase[tuple[str, ...]]):
    """Directories with a bin/nvcc, where distributions and NVIDIA's installers put them; links are resolved.

    Output::

        /usr
        /usr/local/cuda-13.0
        /usr/local/cuda-13.0
    """

    @staticmethod
    def default() -> tuple[str, ...]:
        return ()

    def command(self) -> str:
        return (
            "for d in /usr /usr/local/cuda /usr/local/cuda-* /opt/cuda /opt/cuda-*; do "
            'test -x "$d/bin/nvcc" && readlink -f "$d"; done; true'
        )

    def process(self, output: list[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line.strip() for line in output if line.startswith("/")))
