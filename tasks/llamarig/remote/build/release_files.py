"""Verifies the files of a release against its manifest, and moves a finished release into place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from llamarig.remote.download.verified_files import sha256_of


def damaged(release: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of the files that are missing, or differ from the manifest in size or sha256."""
    return [
        name
        for name, recorded in sorted(manifest["files"].items())
        if not _is_as_recorded(release / "bin" / name, recorded)
    ]


def _is_as_recorded(path: Path, recorded: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == recorded["size"] and sha256_of(path) == recorded["sha256"]


def put_in_place(part: Path, release: Path) -> None:
    """Rename the finished directory, in one step. A damaged release of that name is removed."""
    os.sync()
    broken = release.with_name(release.name + ".broken")
    shutil.rmtree(broken, ignore_errors=True)
    if release.exists():
        release.rename(broken)
    part.rename(release)
    shutil.rmtree(broken, ignore_errors=True)
