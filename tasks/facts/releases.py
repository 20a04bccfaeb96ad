"""The llama.cpp releases of a box: their manifests, and what lies in their directories."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.json_text import json_object
from tasks.facts.numbers import whole


@dataclass
class Release:
    """``manifest`` as the build wrote it, None where there is none; ``files``: name -> bytes in bin/."""

    manifest: dict[str, Any] | None = None
    files: dict[str, int] = field(default_factory=dict)

    @property
    def flags(self) -> frozenset[str]:
        """Every flag the release's llama-server lists in its own --help."""
        return frozenset(self.manifest["flags"]) if self.manifest else frozenset()


class Releases(FactBase[dict[str, Release]]):
    """Directory -> Release, for the directories asked for."""

    @staticmethod
    @override
    def default() -> dict[str, Release]:
        return {}

    @override
    def command(self, directories: Iterable[str]) -> str:
        return (
            f"for d in {shlex.join(sorted(directories))}; do printf 'release\\t%s\\n' \"$d\"; "
            "test -f \"$d/manifest.json\" && (printf 'manifest\\t'; tr -d '\\n' <\"$d/manifest.json\"; echo); "
            'test -d "$d/bin" && find "$d/bin" -type f -printf \'file\\t%s\\t%f\\n\'; done; true'
        )

    @override
    def process(self, output: list[str]) -> dict[str, Release]:
        releases: dict[str, Release] = {}
        release = Release()
        for line in output:
            kind, _, rest = line.partition("\t")
            if kind == "release":
                release = releases[rest] = Release()
            elif kind == "manifest":
                said = json_object(rest)
                # One that cannot be read, or is not one, is no manifest: the release is then built again.
                release.manifest = said if _is_manifest(said) else None
            elif kind == "file":
                size, _, name = rest.partition("\t")
                if (taken := whole(size)) is not None:
                    release.files[name] = taken
        return releases


def _is_manifest(said: dict[str, Any]) -> bool:
    flags, files = said.get("flags"), said.get("files")
    return (
        "commit" in said
        and isinstance(flags, list)
        and all(isinstance(flag, str) for flag in flags)
        and isinstance(files, dict)
    )
