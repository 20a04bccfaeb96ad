"""Check that the host has what the rehearsal box needs, and run commands on the host."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.abilities import REMEDY, abilities, container_lacks

# A root shell entered with plain `su` lacks the sbin directories, which hold half of the required programs.
COMMAND_PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

PACKAGE_OF = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}


class BoxError(Exception):
    """The box cannot be made, started or used; the message names the remedy where there is one."""


def say(message: str) -> None:
    """Print a progress message."""
    print(message, flush=True)


def check_host() -> None:
    """Raise one BoxError that names everything this machine lacks for a container, and the command that installs it."""
    if lacking := container_lacks(abilities()):
        raise BoxError(f"This machine cannot boot the box: {lacking}.\n{REMEDY}")
    require_programs(PACKAGE_OF)


def require_programs(package_of: Mapping[str, str]) -> None:
    """Raise one BoxError that names the programs (keys), and Debian's keyring, that are missing, and their packages."""
    missing = [tool for tool in package_of if shutil.which(tool, path=COMMAND_PATH) is None]
    packages = {package_of[tool] for tool in missing}
    if not KEYRING.exists():
        missing.append(str(KEYRING))
        packages.add("debian-archive-keyring")
    if missing:
        raise BoxError(f"This machine lacks {', '.join(missing)}.\nRun: apt-get install {' '.join(sorted(packages))}")


def host_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with the sbin directories added to PATH."""
    return {**os.environ, "PATH": COMMAND_PATH, **(extra or {})}


def run(argv: Sequence[str | Path], *, what: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command of the host and return its standard output.

    Raises BoxError, beginning with `what` (a clause: "could not ..."), with what the command wrote, if it fails.
    """
    done = subprocess.run(
        argv,
        env=env or host_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise BoxError(f"{what}: {(done.stderr or done.stdout).strip() or f'exit status {done.returncode}'}")
    return done.stdout


def tail(log: Path, lines: int = 20) -> str:
    """Return the last lines of a log, or "(empty)"."""
    try:
        text = log.read_text(errors="replace").strip()
    except FileNotFoundError:
        text = ""
    return "\n".join(text.splitlines()[-lines:]) or "(empty)"


def remove_tree(directory: Path) -> None:
    """Delete a directory that belongs to a box.

    Raises BoxError if something is mounted below it: a killed bootstrap may leave the host's /dev there.
    """
    inside = f"{directory}/"
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    # Field 5 is the mount point, with spaces escaped as \040 (proc_pid_mountinfo(5)).
    points = [line.split()[4].encode().decode("unicode_escape") for line in mounts]
    mounted = sorted((point for point in points if point.startswith(inside)), reverse=True)
    if mounted:
        raise BoxError(f"Not deleting {directory}: something is mounted in it.\nRun: umount {' '.join(mounted)}")
    run(["rm", "-rf", "--one-file-system", "--", directory], what=f"could not delete {directory}")
