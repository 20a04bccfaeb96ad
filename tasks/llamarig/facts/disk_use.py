"""Disk use of directories. Reads every entry of them, so it is slow: for interactive commands only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.output import whole_number


@dataclass(frozen=True)
class Directory:
    """``size``: disk use in bytes; ``changed_at``: newest modification time in it, seconds since the epoch."""

    size: int
    changed_at: int = 0


class DirectorySizes(FactBase[dict[str, Directory]]):
    """Path -> Directory, for every directory directly below the given ones.

    Output::

        19505152	1795286312	/opt/llamarig/llama.cpp/0c1e57098bba43ac29e6e3b677cdceebdd22334f-a6a0c45d
        16678912	1795286105	/var/lib/llamarig/models/llamarig
    """

    ends_within_s = 1800
    """It reads every entry, of a slow disk too."""

    default = dict

    def command(self, parents: Iterable[str]) -> str:
        globs = " ".join(f"{parent}/*/" for parent in sorted(parents))
        return (
            f'for d in {globs}; do test -d "$d" && du --summarize --block-size=1 --time --time-style=+%s "${{d%/}}"; '
            "done 2>/dev/null; true"
        )

    def process(self, output: list[str]) -> dict[str, Directory]:
        directories = {}
        for line in output:
            size, _, rest = line.partition("\t")
            changed, _, path = rest.partition("\t")
            taken, changed_at = whole_number(size), whole_number(changed)
            if taken is not None and changed_at is not None and path:
                directories[path] = Directory(taken, changed_at)
        return directories
