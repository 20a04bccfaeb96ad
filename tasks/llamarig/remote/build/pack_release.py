"""Packs a verified release of this box for others, into a reproducible archive."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

from llamarig.remote.build.release_files import damaged
from llamarig.remote.shared.job_status import JobFailedError, Progress, run_job
from llamarig.remote.shared.jobs import PackJob


def pack(job: PackJob, progress: Progress) -> str:
    """Make the archive; returns the closing line.

    :raises JobFailedError: when the release is damaged
    """
    release, archive = Path(job.release), Path(job.archive)
    progress.step("checking the release")
    manifest = json.loads((release / "manifest.json").read_text())
    if names := damaged(release, manifest):
        raise JobFailedError(f"{release} is damaged ({', '.join(names)}): delete it, then deploy again")
    progress.step("packing")
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"{archive.name}.part")
    with (
        part.open("wb") as file,
        # Level 1: much of the libraries is compressed GPU code, which higher levels hardly shrink.
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(release.rglob("*")):
            tar.add(path, str(path.relative_to(release)), recursive=False, filter=_normalized)
    part.replace(archive)
    return f"packed, {archive.stat().st_size / 1024**2:.0f} MiB"


def _normalized(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove what would differ between two archives of the same files."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


if __name__ == "__main__":
    run_job(PackJob, pack)
