"""The llama.cpp releases of a box: manifests, and files in bin/."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api.facts import FactBase

from llamarig.facts.output import json_object, whole_number
from llamarig.remote.build.release_files import INSTALLED
from llamarig.render import layout


@dataclass
class Release:
    """``manifest``: as the build wrote it, None where there is no valid one; ``files``: name in bin/ -> bytes."""

    manifest: dict[str, Any] | None = None
    files: dict[str, int] = field(default_factory=dict)

    @property
    def flags(self) -> frozenset[str]:
        """All flags that llama-server of this release lists in --help."""
        return frozenset(self.manifest["flags"]) if self.manifest else frozenset()

    @property
    def models(self) -> frozenset[str]:
        """The architectures that it serves; empty for a release of an earlier version, which did not record them."""
        return frozenset(self.manifest.get("models", ())) if self.manifest else frozenset()


class Releases(FactBase[dict[str, Release]]):
    """Directory -> Release, for the given directories.

    Output::

        release	/opt/llamarig/llama.cpp/0c1e57098bba43ac29e6e3b677cdceebdd22334f-a6a0c45d
        manifest	{ "commit": "0c1e57098bba43ac29e6e3b677cdceebdd22334f", ..."flags": [  "--adaptive-decay", ...
        file	15960	llama-fit-params
    """

    default = dict

    def command(self, directories: Iterable[str]) -> str:
        return (
            f"for d in {shlex.join(sorted(directories))}; do printf 'release\\t%s\\n' \"$d\"; "
            "test -f \"$d/manifest.json\" && (printf 'manifest\\t'; tr -d '\\n' <\"$d/manifest.json\"; echo); "
            'test -d "$d/bin" && find "$d/bin" -type f -printf \'file\\t%s\\t%f\\n\'; done; true'
        )

    def process(self, output: list[str]) -> dict[str, Release]:
        releases: dict[str, Release] = {}
        release = Release()
        for line in output:
            kind, _, rest = line.partition("\t")
            if kind == "release":
                release = releases[rest] = Release()
            elif kind == "manifest":
                manifest = json_object(rest)
                # An invalid manifest counts as none: the release is then built again.
                release.manifest = manifest if _is_manifest(manifest) else None
            elif kind == "file":
                size, _, name = rest.partition("\t")
                if (taken := whole_number(size)) is not None:
                    release.files[name] = taken
        return releases


class InstalledOrder(FactBase[list[str]]):
    """Names of the releases in the order in which they were put in place (remote/build/release_files.py).

    Output::

        0c1e57098bba43ac29e6e3b677cdceebdd22334f-a6a0c45d
    """

    default = list

    def command(self) -> str:
        return f"cat {layout.RELEASES}/{INSTALLED} 2>/dev/null; true"

    def process(self, output: list[str]) -> list[str]:
        return output


def _is_manifest(manifest: dict[str, Any]) -> bool:
    flags, files = manifest.get("flags"), manifest.get("files")
    return (
        "commit" in manifest
        and isinstance(flags, list)
        and all(isinstance(flag, str) for flag in flags)
        and isinstance(files, dict)
    )
