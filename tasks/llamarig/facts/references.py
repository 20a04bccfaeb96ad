"""What uses files below given directories: processes that have them open, and files of units that name them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import PurePosixPath

from pyinfra.api.facts import FactBase

from llamarig.render import layout

UNIT_FILES = ("/etc/systemd", "/run/systemd/system", "/usr/local/lib/systemd", "/etc/containers/systemd")
"""Directories of units and drop-ins that come with no package: root's, those for user managers, and podman's."""

_AS_PATTERN = r"s/[][\\.*^$(){}?+|#&]/\\&/g"
"""sed script that escapes a path for use in a pattern of sed -E."""


def _for_each(parents: Iterable[str], command: str) -> str:
    """Shell loop over directories: $d is the directory, $r its real path; $f and $e are these, escaped for sed -E."""
    return (
        f'for d in {shlex.join(sorted(parents))}; do r=$(readlink -f "$d"); r=${{r:-$d}}; '
        f"e=$(printf %s \"$r\" | sed '{_AS_PATTERN}'); f=$(printf %s \"$d\" | sed '{_AS_PATTERN}'); {command}; done"
    )


class OpenPaths(FactBase[str]):
    """Paths below the given directories that a process has open or mapped or is running from, one per line.

    Output::

        /opt/llamarig/llama.cpp/.../bin/libllama.so.0.5.0
        /opt/llamarig/llama.cpp/.../bin/llama-server

    The kernel reports real paths; where a directory is a symbolic link, they are translated back to its own name. Of a
    server in its sandbox it reports those that are seen there.
    """

    default = str

    def command(self, parents: Iterable[str]) -> str:
        # Neither in output of readlink nor in maps is there a slash before the path.
        rename = _for_each(parents, 's="${s}s#^[^/]*($e|$f)(/.*)#$d\\2#p;"')
        return (
            f"s=; {rename}; "
            "{ readlink /proc/[0-9]*/fd/* /proc/[0-9]*/exe /proc/[0-9]*/cwd; cat /proc/[0-9]*/maps; } 2>/dev/null "
            '| sed -nE "$s" | sort -u; true'
        )

    def process(self, output: list[str]) -> str:
        return "\n".join(output)


class References(FactBase[dict[str, str]]):
    """Unit, drop-in, preset file or start record -> its lines that name something below the given directories.

    Units and drop-ins of anyone. Keys are ``mine.service``, ``mine.service.d/override.conf``, or the path of a preset
    file or start record. Paths are translated as in
    `OpenPaths`. Path and line, separated by a tab::

        /etc/systemd/system/llamarig-tiny.service	ExecStart=/opt/llamarig/llama.cpp/.../bin/llama-server ...
    """

    default = dict

    def command(self, parents: Iterable[str]) -> str:
        names = _for_each(parents, 'set -- "$@" -e "$d/" -e "$r/"; s="${s}s#$e/#$d/#g;"')
        return (
            f"s=; set --; {names}; "
            f'grep -RHZsIF -D skip "$@" {shlex.join([*UNIT_FILES, layout.PRESETS, layout.PROOFS])} | tr "\\000" "\\t" '
            '| sed -E "/\\t[[:space:]]*[#;]/d;$s"; true'
        )

    def process(self, output: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in output:
            path, tab, text = line.partition("\t")
            if tab:
                found[_named(path)] = "\n".join([*filter(None, [found.get(_named(path))]), text])
        return found


def _named(path: str) -> str:
    file = PurePosixPath(path)
    if path.startswith((f"{layout.PRESETS}/", f"{layout.PROOFS}/")):
        return path
    return f"{file.parent.name}/{file.name}" if file.parent.name.endswith(".d") else file.name
