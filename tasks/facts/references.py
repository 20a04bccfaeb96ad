"""Who uses what lies below our directories: processes that have it open, and files of systemd that name it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import PurePosixPath

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.planning import layout

UNIT_FILES = ("/etc/systemd", "/run/systemd/system", "/usr/local/lib/systemd", "/etc/containers/systemd")
"""Where units and drop-ins are that no package brings: root's, also for users' managers, and podman's."""

_AS_PATTERN = r"s/[][\\.*^$(){}?+|#&]/\\&/g"
"""A path as sed -E reads it: itself and nothing else."""


def _for_each(parents: Iterable[str], command: str) -> str:
    """``command`` with each of the directories as $d, where links in it lead as $r, and $e, the latter for sed -E."""
    return (
        f'for d in {shlex.join(sorted(parents))}; do r=$(readlink -f "$d"); r=${{r:-$d}}; '
        f"e=$(printf %s \"$r\" | sed '{_AS_PATTERN}'); {command}; done"
    )


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
        # Nothing before the path has a slash, neither in a link nor in a line of maps.
        rename = _for_each(parents, 's="${s}s#^[^/]*$e(/.*)#$d\\1#p;"')
        return (
            f"s=; {rename}; "
            "{ readlink /proc/[0-9]*/fd/* /proc/[0-9]*/exe /proc/[0-9]*/cwd; cat /proc/[0-9]*/maps; } 2>/dev/null "
            '| sed -nE "$s" | sort -u; true'
        )

    @override
    def process(self, output: list[str]) -> str:
        return "\n".join(output)


class References(FactBase[dict[str, str]]):
    """Unit, drop-in or preset file, whoever wrote it -> its lines that name something below these directories.

    Named as the owner knows it: ``mine.service``, ``mine.service.d/override.conf``, the path of a preset file. Paths
    beyond a link have the name that was asked for.
    """

    @staticmethod
    @override
    def default() -> dict[str, str]:
        return {}

    @override
    def command(self, parents: Iterable[str]) -> str:
        names = _for_each(parents, 'set -- "$@" -e "$d/" -e "$r/"; s="${s}s#$e/#$d/#g;"')
        return (
            f"s=; set --; {names}; "
            f'grep -RHZsIF -D skip "$@" {shlex.join([*UNIT_FILES, layout.PRESETS])} | tr "\\000" "\\t" '
            '| sed -E "/\\t[[:space:]]*[#;]/d;$s"; true'
        )

    @override
    def process(self, output: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in output:
            path, tab, text = line.partition("\t")
            if tab:
                found[_named(path)] = "\n".join([*filter(None, [found.get(_named(path))]), text])
        return found


def _named(path: str) -> str:
    file = PurePosixPath(path)
    if path.startswith(f"{layout.PRESETS}/"):
        return path
    return f"{file.parent.name}/{file.name}" if file.parent.name.endswith(".d") else file.name
