"""How much room directories take. Reads every entry of them, so it is for a command that somebody waits for."""

from __future__ import annotations

from collections.abc import Iterable

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.numbers import whole
from tasks.planning.leftovers import Directory


class DirectorySizes(FactBase[dict[str, Directory]]):
    """Path -> size and age, of every directory directly below the ones asked for."""

    @staticmethod
    @override
    def default() -> dict[str, Directory]:
        return {}

    @override
    def command(self, parents: Iterable[str]) -> str:
        globs = " ".join(f"{parent}/*/" for parent in sorted(parents))
        return (
            f'for d in {globs}; do test -d "$d" && du --summarize --block-size=1 --time --time-style=+%s "${{d%/}}"; '
            "done 2>/dev/null; true"
        )

    @override
    def process(self, output: list[str]) -> dict[str, Directory]:
        directories = {}
        for line in output:
            size, _, rest = line.partition("\t")
            changed, _, path = rest.partition("\t")
            taken, changed_at = whole(size), whole(changed)
            if taken is not None and changed_at is not None and path:
                directories[path] = Directory(taken, changed_at)
        return directories
