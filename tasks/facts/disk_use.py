"""How much room directories take. Reads every entry of them, so it is for a command that somebody waits for."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.planning.leftovers import Directory

_AS_PATTERN = r"s/[][\\.*^$(){}?+|#&]/\\&/g"
"""A path as sed -E reads it: itself and nothing else."""


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
            if size.isdigit() and changed.isdigit() and path:
                directories[path] = Directory(int(size), int(changed))
        return directories


class OpenPaths(FactBase[str]):
    """Every path below these directories that some process has open or mapped, or was started from, a line each.

    The kernel knows it by the names of directories that links lead to; here it has the name that was asked for.
    """

    @staticmethod
    @override
    def default() -> str:
        return ""

    @override
    def command(self, parents: Iterable[str]) -> str:
        return (
            f's=; for d in {shlex.join(sorted(parents))}; do r=$(readlink -f "$d"); '
            # Nothing before the path has a slash, neither in a link nor in a line of maps.
            f'r=$(printf %s "${{r:-$d}}" | sed \'{_AS_PATTERN}\'); s="${{s}}s#^[^/]*$r(/.*)#$d\\1#p;"; done; '
            "{ readlink /proc/[0-9]*/fd/* /proc/[0-9]*/exe /proc/[0-9]*/cwd; cat /proc/[0-9]*/maps; } 2>/dev/null "
            '| sed -nE "$s" | sort -u; true'
        )

    @override
    def process(self, output: list[str]) -> str:
        return "\n".join(output)
