"""Packs a release of this box for others: byte for byte the same archive each time, of files that are as recorded.

Runs on the box that built it.
"""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

from tasks.files.job_status import JobFailedError, Progress, run_job
from tasks.files.release_files import damaged


def pack(job: dict[str, Any], progress: Progress) -> str:
    """Make ``job["archive"]`` of ``job["release"]``; returns the closing line."""
    release, archive = Path(job["release"]), Path(job["archive"])
    progress.step("checking the release")
    manifest = json.loads((release / "manifest.json").read_text())
    if wrong := damaged(release, manifest):
        raise JobFailedError(f"{release} is damaged ({', '.join(wrong)}): delete it, then deploy again")
    progress.step("packing")
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"{archive.name}.part")
    with (
        part.open("wb") as file,
        # Level 1: the libraries hold code that is packed already, and the box has better things to do.
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(release.rglob("*")):
            tar.add(path, str(path.relative_to(release)), recursive=False, filter=_anonymous)
    part.replace(archive)
    return f"packed, {archive.stat().st_size / 1024**2:.0f} MiB"


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without what differs between two packings of the same files."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


if __name__ == "__main__":
    run_job(pack)
