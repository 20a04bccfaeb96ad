"""What the rehearsal box needs of the machine it runs on, and how its own commands are run there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# A root shell entered with plain `su` has no sbin directories, and half of what is needed lies there.
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
    """Something about the box that its owner has to know; the message says what to do."""


def say(message: str) -> None:
    """Tell the person who is waiting what is going on."""
    print(message, flush=True)


def check_host() -> None:
    """Raise one BoxError that names everything this machine lacks and the command that adds it."""
    if os.geteuid() != 0:
        raise BoxError("The rehearsal box is a container with its own systemd: it needs root. Run this as root.")
    missing = [tool for tool in PACKAGE_OF if shutil.which(tool, path=COMMAND_PATH) is None]
    packages = {PACKAGE_OF[tool] for tool in missing}
    if not KEYRING.exists():
        missing.append(str(KEYRING))
        packages.add("debian-archive-keyring")
    if missing:
        raise BoxError(f"This machine lacks {', '.join(missing)}.\nRun: apt-get install {' '.join(sorted(packages))}")


def host_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with a PATH in which the host's tools are found."""
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
    """Return the last lines of a log, or a word for none."""
    try:
        text = log.read_text(errors="replace").strip()
    except FileNotFoundError:
        text = ""
    return "\n".join(text.splitlines()[-lines:]) or "(empty)"


def remove_tree(directory: Path) -> None:
    """Delete a directory of ours, and nothing that is mounted below it.

    Raises BoxError if something is: a bootstrap killed at the wrong moment may leave the host's /dev there.
    """
    inside = f"{directory}/"
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    # Field 5 is the mount point, with blanks written as \040 (proc_pid_mountinfo(5)).
    points = [line.split()[4].encode().decode("unicode_escape") for line in mounts]
    mounted = sorted((point for point in points if point.startswith(inside)), reverse=True)
    if mounted:
        raise BoxError(f"Not deleting {directory}: something is mounted in it.\nRun: umount {' '.join(mounted)}")
    run(["rm", "-rf", "--one-file-system", "--", directory], what=f"could not delete {directory}")
