"""How much room directories take. Reads every entry of them, so it is for a command that somebody waits for."""

from __future__ import annotations

from collections.abc import Iterable

from pyinfra.api.facts import FactBase
from typing_extensions import override


class DirectorySizes(FactBase[dict[str, int]]):
    """Path -> bytes on the disk, of every directory directly below the ones asked for."""

    @staticmethod
    @override
    def default() -> dict[str, int]:
        return {}

    @override
    def command(self, parents: Iterable[str]) -> str:
        globs = " ".join(f"{parent}/*/" for parent in sorted(parents))
        return f"for d in {globs}; do test -d $d && du --summarize --block-size=1 ${{d%/}}; done 2>/dev/null; true"

    @override
    def process(self, output: list[str]) -> dict[str, int]:
        sizes = {}
        for line in output:
            size, _, path = line.partition("\t")
            if size.isdigit() and path:
                sizes[path] = int(size)
        return sizes


class OpenPaths(FactBase[str]):
    """Every path below these directories that some process has open or mapped, or was started from, a line each."""

    @staticmethod
    @override
    def default() -> str:
        return ""

    @override
    def command(self, parents: Iterable[str]) -> str:
        pattern = "|".join(sorted(parents))
        return (
            "{ readlink /proc/[0-9]*/fd/* /proc/[0-9]*/exe /proc/[0-9]*/cwd; cat /proc/[0-9]*/maps; } 2>/dev/null "
            f"| grep -oE '({pattern})/.*' | sort -u; true"
        )

    @override
    def process(self, output: list[str]) -> str:
        return "\n".join(output)
