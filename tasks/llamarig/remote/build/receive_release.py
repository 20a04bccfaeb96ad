"""Installs a release that another box packed: verifies archive and files, runs the server, then renames the directory.

Runs on the box that receives it, which needs no compiler.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from llamarig.remote.build.release_files import damaged, put_in_place
from llamarig.remote.download.verified_files import sha256_of
from llamarig.remote.shared.job_status import JobFailedError, Progress, run_job
from llamarig.remote.shared.jobs import ReceiveJob


def receive(job: ReceiveJob, progress: Progress) -> str:
    """Install the release; returns the closing line.

    :raises JobFailedError: when it is damaged or does not run here
    """
    archive, release = Path(job.archive), Path(job.release)
    if _is_whole(release):
        # Of another run, which was under way when this one was started. A server may run from it.
        _delete(archive)
        return f"{release.name} is there already"
    progress.step("checking the archive")
    found = sha256_of(archive)
    if found != job.sha256:
        raise JobFailedError(
            f"the archive has sha256 {found} here, {job.sha256} on {job.builder}: not used; "
            "run deploy.py again to send it again"
        )
    progress.step("unpacking")
    part = release.with_name(f"{release.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        unpack(archive, part)
        progress.step("checking the release")
        manifest = json.loads((part / "manifest.json").read_text())
        if names := damaged(part, manifest):
            raise JobFailedError(f"of the release from {job.builder}, {', '.join(names)} are not as recorded: not used")
        _check_it_runs(part / "bin", job.builder)
    except JobFailedError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    put_in_place(part, release)
    _delete(archive)
    return f"received {release.name} from {job.builder}"


def _is_whole(release: Path) -> bool:
    try:
        return not damaged(release, json.loads((release / "manifest.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _delete(archive: Path) -> None:
    archive.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        archive.parent.rmdir()


def unpack(archive: Path, target: Path) -> None:
    """Unpack regular files, directories and links that stay inside ``target``."""
    with tarfile.open(archive) as tar:
        # Python releases without extraction filters ignore this attribute.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(target)


def _check_it_runs(binaries: Path, builder: str) -> None:
    files = [str(path) for path in sorted(binaries.iterdir()) if not path.is_symlink()]
    loaded = subprocess.run(["ldd", *files], capture_output=True, text=True, errors="replace")
    # libcuda belongs to the driver; a missing driver is reported elsewhere.
    missing = {
        line.strip()
        for line in (loaded.stdout + loaded.stderr).splitlines()
        if "not found" in line and "libcuda.so" not in line
    }
    if missing:
        raise JobFailedError(
            f"this box cannot run what {builder} built, libraries are missing: install them, or build it here "
            "(leave built_by out)",
            sorted(missing),
        )
    if any("libcuda.so" in line and "not found" in line for line in loaded.stdout.splitlines()):
        return
    done = subprocess.run([str(binaries / "llama-server"), "--version"], capture_output=True, text=True)
    if done.returncode:
        raise JobFailedError(
            f"llama-server as {builder} built it ends with {done.returncode} here: build it here (leave built_by out)",
            done.stderr.splitlines()[-5:],
        )


if __name__ == "__main__":
    run_job(ReceiveJob, receive)
