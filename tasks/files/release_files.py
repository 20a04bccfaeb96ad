"""A release's directory: whether its files are those of its manifest, and how a new one takes its place.

Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from tasks.files.verified_files import digest


def damaged(release: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of the files that are missing, of another size or of another sha256 than the manifest says."""
    return [
        name
        for name, recorded in sorted(manifest["files"].items())
        if not _is_as_recorded(release / "bin" / name, recorded)
    ]


def _is_as_recorded(path: Path, recorded: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == recorded["size"] and digest(path) == recorded["sha256"]


def put_in_place(part: Path, release: Path) -> None:
    """The finished directory to its name, in one step. A damaged one of that name goes out of the way first."""
    os.sync()
    broken = release.with_name(release.name + ".broken")
    shutil.rmtree(broken, ignore_errors=True)
    if release.exists():
        release.rename(broken)
    part.rename(release)
    shutil.rmtree(broken, ignore_errors=True)
