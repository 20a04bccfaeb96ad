"""Install what the rehearsal and the tests need on this machine: Debian packages, the pinned uv, and .venv as locked.

Runs on the bare python3 (>= 3.11) of a fresh Debian or Ubuntu, so it uses the standard library only. The first run
downloads from Debian's mirrors and PyPI; later runs need no network.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.box.paths import cache_directory

REPOSITORY = Path(__file__).resolve().parent.parent
PYTHON = REPOSITORY / ".venv/bin/python"

REHEARSAL_PACKAGES = (
    "mmdebstrap",
    "systemd",
    "systemd-container",
    "iproute2",
    "openssh-client",
    "debian-archive-keyring",
    "ca-certificates",
    "python3-venv",
    "curl",
)
"""What the rehearsal starts in a container, and what its closing words ask the reader to start."""

VM_PACKAGES = (
    "mmdebstrap",
    "e2fsprogs",
    "uidmap",
    "openssh-client",
    "debian-archive-keyring",
    "ca-certificates",
    "python3-venv",
    "curl",
)
"""The same where the rehearsal is in a virtual machine."""

# Every program that the tests, the rehearsal and the benchmarks start here is in one of these packages or in one that
# Debian marks Essential; tests/test_programs.py checks it.
PACKAGES = (*REHEARSAL_PACKAGES, "git", "uidmap", "e2fsprogs", "mount", "openssl", "aria2")

LONG_PACKAGES = ("chromium",)
"""What `python3 -m tests long` needs besides: a browser, for tests/box/test_browser.py."""

UV_VERSION = "0.13.8"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
LOG_LINES = 40
"""Of a quiet command's output, shown when it fails."""


class SetUpError(Exception):
    """The set-up failed; the message names what is missing and the remedy."""


def set_up(packages: Sequence[str] = PACKAGES, groups: Sequence[str] = ()) -> None:
    """Install the missing Debian packages, the pinned uv, and .venv as locked. Raises SetUpError.

    :param groups: dependency groups of pyproject.toml; empty for its default ones
    """
    install_packages(packages)
    synchronise(install_uv(), groups)
    # Tests start pyinfra hundreds of times, and it writes no bytecode of what it imports.
    _require_quietly([PYTHON, "-m", "compileall", "-q", "tasks"])


def install_packages(packages: Sequence[str]) -> None:
    """Install those of the packages that are missing; installed packages of this machine keep their versions.

    :raises SetUpError: where apt could install them only by upgrading others; CI=true, a machine for one run, allows it
    """
    if shutil.which("dpkg-query") is None:
        raise SetUpError("This needs Debian or Ubuntu: there is no dpkg-query here.")
    installed = _installed(packages)
    missing = [name for name in packages if name not in installed]
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise SetUpError(f"Debian packages are missing. Run as root: {shlex.join(command)}")
    print(f"Installing Debian packages: {', '.join(missing)}", flush=True)
    _require_quietly(["apt-get", "update"], APT)
    plan = _simulated(missing)
    if upgraded_by(plan) and (held := [one for one in at_installed_versions(plan) if _is_in_the_archive(one)]):
        missing = [*(name for name in missing if name not in {word.partition("=")[0] for word in held}), *held]
        plan = _simulated(missing)
    upgraded = upgraded_by(plan)
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if upgraded and os.environ.get("CI") != "true":
        raise SetUpError(
            f"Installing them would upgrade {', '.join(sorted(upgraded))} on this machine, so nothing was installed. "
            f"To allow it, run as root: {shlex.join(command)}"
        )
    _require_quietly(command, APT)


APT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
_INSTALLS = re.compile(r"^Inst (\S+) (?:\[([^\]]+)\] )?\((\S+)", re.MULTILINE)
"""A line of `apt-get --simulate`: name, installed version if there is one, version to come."""


def upgraded_by(simulation: str) -> set[str]:
    """The installed packages that get another version, by the output of `apt-get --simulate install`."""
    return {name for name, old, _ in _INSTALLS.findall(simulation) if old}


def at_installed_versions(simulation: str) -> list[str]:
    """The new packages that belong to upgraded ones, each with the version that is installed: `NAME=VERSION`.

    apt chooses the newest version and upgrades what has to match it; the archive may still have the installed version.
    """
    found = _INSTALLS.findall(simulation)
    installed = {new: old for _, old, new in found if old}
    return [f"{name}={installed[new]}" for name, old, new in found if not old and new in installed]


def _simulated(packages: Sequence[str]) -> str:
    """The output of a simulated installation; empty where apt refuses it, since the real one then says why."""
    argv = ["apt-get", "install", "--simulate", "--no-install-recommends", *packages]
    done = subprocess.run(argv, env={**os.environ, **APT}, capture_output=True, text=True, check=False)
    return "" if done.returncode else done.stdout


def _is_in_the_archive(package: str) -> bool:
    """Whether apt can install this version; an archive drops older ones when a point release comes.

    :param package: ``NAME=VERSION``
    """
    argv = ["apt-get", "download", "--print-uris", package]
    return not subprocess.run(argv, env={**os.environ, **APT}, capture_output=True, check=False).returncode


def install_uv() -> Path:
    """Return the path of the pinned uv; install it from PyPI into its own virtual environment if it is missing."""
    home = cache_directory() / f"uv-{UV_VERSION}"
    uv = home / "bin/uv"
    if _version(uv) == UV_VERSION:
        return uv
    print(f"Installing uv {UV_VERSION} from PyPI into {home}", flush=True)
    # --clear: an earlier attempt may have stopped halfway.
    _require_quietly([sys.executable, "-m", "venv", "--clear", home])
    # pip trusts only its bundled certificates, but the host's may include that of a proxy that inspects TLS.
    trust = {"PIP_CERT": os.environ.get("PIP_CERT", str(CERTIFICATES))} if CERTIFICATES.exists() else {}
    install = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    _require_quietly([home / "bin/python", *install, f"uv=={UV_VERSION}"], trust)
    if (found := _version(uv)) != UV_VERSION:
        raise SetUpError(f"{uv} should be version {UV_VERSION}, but is {found or 'cannot be run'}.")
    return uv


def synchronise(uv: Path, groups: Sequence[str] = ()) -> None:
    """Synchronise .venv with uv.lock; without network and in a fraction of a second if it already matches.

    :param groups: dependency groups; other installed packages then stay. Empty: the default groups and nothing else
    """
    settings = {
        # Use the system's Python: a download would need a source other than PyPI and Debian's mirrors.
        "UV_PYTHON_DOWNLOADS": "never",
        # For a proxy that inspects TLS: the host's certificates instead of uv's own.
        "UV_SYSTEM_CERTS": "1",
        "UV_PROJECT_ENVIRONMENT": str(REPOSITORY / ".venv"),
    }
    # pyinfra switches bytecode files off, so modules that are not compiled here would be compiled again at every run.
    argv = [str(uv), "sync", "--locked", "--compile-bytecode", "--quiet"]
    if groups:
        # Inexact: what `check` has installed is not removed by a rehearsal.
        argv += ["--inexact", "--no-default-groups", *(f"--group={group}" for group in groups)]
    check = subprocess.run(
        [*argv, "--check", "--offline"],
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if check.returncode == 0:
        return
    print("Installing the Python packages of uv.lock into .venv", flush=True)
    _require_quietly(argv, settings)


def call(argv: Sequence[str | Path], extra: Mapping[str, str] | None = None) -> int:
    """Print a command, run it, and return its exit status."""
    shown = [short(word) for word in argv]
    print(f"$ {shlex.join(shown)}", flush=True)
    environment = {**os.environ, **extra} if extra else None
    process = subprocess.Popen(argv, env=environment)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        # The terminal interrupts the command as well: let it clean up. A second Ctrl-C ends the wait.
        process.wait()
        raise
    return status if status >= 0 else 128 - status  # a shell's exit status for a process ended by a signal


def _require_quietly(argv: Sequence[str | Path], extra: Mapping[str, str] | None = None) -> None:
    """Run a command; print its output only if it fails.

    :raises SetUpError: with the end of its output
    """
    done = subprocess.run(
        argv,
        env={**os.environ, **(extra or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        output = "\n".join(done.stdout.strip().splitlines()[-LOG_LINES:])
        command = shlex.join(map(short, argv))
        raise SetUpError(f"`{command}` failed with exit status {done.returncode}:\n{output}")


def _installed(packages: Sequence[str]) -> set[str]:
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n", *packages]
    # dpkg-query exits with 1 if it does not know one of the packages, but still prints the others.
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    return {line.split()[0] for line in answer.splitlines() if line.endswith(" installed")}


def _version(uv: Path) -> str | None:
    """Return the version that `uv --version` prints; None if uv is missing, incomplete, or built for another CPU."""
    try:
        output = subprocess.run([uv, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    return output.split()[1] if output.startswith("uv ") else None


def short(word: str | Path) -> str:
    """The word as printed: a path inside the repository is shown relative to it."""
    path = Path(word)
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else str(word)
