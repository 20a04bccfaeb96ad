"""Set this machine up, then run the rehearsal or the checks: python3 -m tests rehearsal|check|lint.

Runs on the bare python3 (>= 3.11) of a fresh Debian or Ubuntu, so it uses the standard library only. The first run
downloads from Debian's mirrors and PyPI; later runs need no network.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.box.paths import cache_directory

REPOSITORY = Path(__file__).resolve().parent.parent
PYTHON = REPOSITORY / ".venv/bin/python"

# Every program that the tests, the rehearsal and the benchmarks start here is in one of these packages or in one that
# Debian marks Essential; tests/test_programs.py checks it.
PACKAGES = (
    "mmdebstrap",
    "systemd",
    "systemd-container",
    "iproute2",
    "openssh-client",
    "debian-archive-keyring",
    "ca-certificates",
    "git",
    "uidmap",
    "python3-venv",
    "curl",
    "e2fsprogs",
    "mount",
    "openssl",
    "aria2",
)
UV_VERSION = "0.13.8"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

LINT = (("-m", "ruff", "check"), ("-m", "ruff", "format", "--check"), ("-m", "mypy"))


class SetUpError(Exception):
    """The set-up failed; the message names what is missing and the remedy."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests",
        description="Set this machine up (Debian packages, uv, .venv), then rehearse or check.",
    )
    parser.add_argument(
        "command",
        choices=("rehearsal", "check", "lint"),
        help="rehearsal: the whole deploy on a disposable Debian here; check: lint, types and all tests; "
        "lint: lint and types only",
    )
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, help="for `rehearsal`, its options; for `check`, pytest's instead of `tests`"
    )
    arguments = parser.parse_args()
    os.chdir(REPOSITORY)
    try:
        set_up()
        if arguments.command == "rehearsal":
            return call([PYTHON, "-m", "tests.box.rehearse", *arguments.rest])
        if code := next((code for step in LINT if (code := call([PYTHON, *step]))), 0):
            return code
        if arguments.command == "lint":
            return 0
        return call([PYTHON, "-m", "pytest", *arguments.rest]) if arguments.rest else test_all()
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def test_all() -> int:
    """Run all tests and return the first exit status other than 0.

    Tests without a box run in parallel with those that use one, because the latter mostly wait.
    """
    fast: list[str | Path] = [PYTHON, "-m", "pytest", "tests", "-m", "not box and not vm"]
    print(f"$ {shlex.join(map(_short, fast))}  # in parallel with the next; its output follows at the end", flush=True)
    with tempfile.TemporaryFile() as output:
        fast_tests = subprocess.Popen(fast, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            box_status = call([PYTHON, "-m", "pytest", "tests", "-m", "box or vm"])
            print("\nThe tests without a box:", flush=True)
            fast_status = fast_tests.wait()
        finally:
            fast_tests.kill()
        output.seek(0)
        print(output.read().decode(errors="replace"), flush=True)
    return box_status or fast_status


def set_up() -> None:
    """Install the missing Debian packages, the pinned uv, and .venv as locked. Raises SetUpError."""
    install_packages()
    synchronise(install_uv())


def install_packages() -> None:
    """Install the packages of PACKAGES that are missing."""
    if shutil.which("dpkg-query") is None:
        raise SetUpError("This needs Debian or Ubuntu: there is no dpkg-query here.")
    installed = _installed(PACKAGES)
    missing = [name for name in PACKAGES if name not in installed]
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise SetUpError(f"Debian packages are missing. Run as root: {shlex.join(command)}")
    print(f"Installing Debian packages: {', '.join(missing)}", flush=True)
    for argv in (["apt-get", "update"], command):
        _require(argv, {"DEBIAN_FRONTEND": "noninteractive"})


def install_uv() -> Path:
    """Return the path of the pinned uv; install it from PyPI into its own virtual environment if it is missing."""
    home = cache_directory() / f"uv-{UV_VERSION}"
    uv = home / "bin/uv"
    if _version(uv) == UV_VERSION:
        return uv
    print(f"Installing uv {UV_VERSION} from PyPI into {home}", flush=True)
    # --clear: an earlier attempt may have stopped halfway.
    _require([sys.executable, "-m", "venv", "--clear", home])
    # pip trusts only its bundled certificates, but the host's may include that of a proxy that inspects TLS.
    trust = {"PIP_CERT": os.environ.get("PIP_CERT", str(CERTIFICATES))} if CERTIFICATES.exists() else {}
    install = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    _require([home / "bin/python", *install, f"uv=={UV_VERSION}"], trust)
    if (found := _version(uv)) != UV_VERSION:
        raise SetUpError(f"{uv} should be version {UV_VERSION}, but is {found or 'not to be run'}.")
    return uv


def synchronise(uv: Path) -> None:
    """Synchronise .venv with uv.lock; without network and in a fraction of a second if it already matches."""
    settings = {
        # Use the system's Python: a download would need a source other than PyPI and Debian's mirrors.
        "UV_PYTHON_DOWNLOADS": "never",
        # For a proxy that inspects TLS: the host's certificates instead of uv's own.
        "UV_SYSTEM_CERTS": "1",
        "UV_PROJECT_ENVIRONMENT": str(REPOSITORY / ".venv"),
    }
    # pyinfra switches bytecode files off, so modules that are not compiled here would be compiled again at every run.
    argv = [str(uv), "sync", "--locked", "--compile-bytecode"]
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
    _require(argv, settings)


def call(argv: Sequence[str | Path], extra: Mapping[str, str] | None = None) -> int:
    """Print a command, run it, and return its exit status."""
    shown = [_short(word) for word in argv]
    print(f"$ {shlex.join(shown)}", flush=True)
    environment = {**os.environ, **extra} if extra else None
    status = subprocess.run(argv, env=environment, check=False).returncode
    return status if status >= 0 else 128 - status  # a shell's exit status for a process ended by a signal


def _require(argv: Sequence[str | Path], extra: Mapping[str, str] | None = None) -> None:
    if status := call(argv, extra):
        raise SetUpError(f"{Path(argv[0]).name} failed with exit status {status}; see above.")


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


def _short(word: str | Path) -> str:
    """The word as printed: a path inside the repository is shown relative to it."""
    path = Path(word)
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else str(word)


if __name__ == "__main__":
    sys.exit(main())
