"""Makes a release of an archive that another box packed: checked twice and tried, and only then given its name.

Runs on the box that receives it, which needs no compiler.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from tasks.files.job_status import JobFailedError, Progress, run_job
from tasks.files.release_files import damaged, put_in_place
from tasks.files.verified_files import digest


def receive(job: dict[str, Any], progress: Progress) -> str:
    """Unpack ``job["archive"]`` as ``job["release"]``; returns the closing line."""
    archive, release = Path(job["archive"]), Path(job["release"])
    progress.step("checking the archive")
    found = digest(archive)
    if found != job["sha256"]:
        raise JobFailedError(
            f"the archive has sha256 {found} here, {job['sha256']} on {job['builder']}: not used; "
            "run deploy.py again, and it is sent anew"
        )
    progress.step("unpacking")
    part = release.with_name(f"{release.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        unpack(archive, part)
        progress.step("checking the release")
        manifest = json.loads((part / "manifest.json").read_text())
        if wrong := damaged(part, manifest):
            raise JobFailedError(
                f"of the release from {job['builder']}, {', '.join(wrong)} are not as recorded: not used"
            )
        check_it_runs(part / "bin", job["builder"])
    except JobFailedError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    put_in_place(part, release)
    archive.unlink()
    with contextlib.suppress(OSError):
        archive.parent.rmdir()
    return f"received {release.name} from {job['builder']}"


def unpack(archive: Path, target: Path) -> None:
    """Regular files, directories and links that stay inside."""
    with tarfile.open(archive) as tar:
        # Pythons without filters of their own do not look at this.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(target)


def check_it_runs(binaries: Path, builder: str) -> None:
    """The loader finds every library, each in the version asked for; and the server can say what it is.

    :raises JobFailedError: before anything serves from it
    """
    files = [str(path) for path in sorted(binaries.iterdir()) if not path.is_symlink()]
    loaded = subprocess.run(["ldd", *files], capture_output=True, text=True, errors="replace")
    # libcuda is the driver's own: absent where there is none yet, which is said elsewhere.
    lacking = {
        line.strip()
        for line in (loaded.stdout + loaded.stderr).splitlines()
        if "not found" in line and "libcuda.so" not in line
    }
    if lacking:
        raise JobFailedError(
            f"this box cannot run what {builder} built, for want of libraries: install them, or build it here "
            "(leave built_by out)",
            sorted(lacking),
        )
    if any("libcuda.so" in line and "not found" in line for line in loaded.stdout.splitlines()):
        return
    said = subprocess.run([str(binaries / "llama-server"), "--version"], capture_output=True, text=True)
    if said.returncode:
        raise JobFailedError(
            f"llama-server as {builder} built it ends with {said.returncode} here: build it here (leave built_by out)",
            said.stderr.splitlines()[-5:],
        )


if __name__ == "__main__":
    run_job(receive)
