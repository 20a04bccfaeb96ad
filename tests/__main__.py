"""Set this machine up, then rehearse or test: python3 -m tests rehearsal|quick|check|long|lint|benchmarks.

Runs on the bare python3 (>= 3.11) of a fresh Debian or Ubuntu, so it uses the standard library only. The first run
downloads from Debian's mirrors and PyPI; later runs need no network.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.box.paths import cache_directory

REPOSITORY = Path(__file__).resolve().parent.parent
PYTHON = REPOSITORY / ".venv/bin/python"
DURATIONS = REPOSITORY / "tests/durations.json"

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
BENCHMARKS = ("converge", "audit", "download", "large_download")
UV_VERSION = "0.13.8"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

RUFF = (("-m", "ruff", "check"), ("-m", "ruff", "format", "--check"))
MYPY = ("-m", "mypy")

COMMANDS = {
    "rehearsal": "the whole deploy on a disposable Debian on this machine",
    "quick": "lint, and the tests that need neither root nor a box and take seconds",
    "check": "lint, types and all tests but the long ones",
    "long": "the tests that take many minutes each; run before an issue is called done",
    "lint": "lint and types only",
    "benchmarks": "each benchmark; with --smoke for seconds, as `check` does",
}
QUICK_FILE_S = 6.0
"""`quick` leaves out files that take longer, by tests/durations.json."""


class SetUpError(Exception):
    """The set-up failed; the message names what is missing and the remedy."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests",
        description="Set this machine up (Debian packages, uv, .venv), then rehearse or check.",
    )
    parser.add_argument(
        "command", choices=COMMANDS, help="; ".join(f"{name}: {text}" for name, text in COMMANDS.items())
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="for `rehearsal`, its options; otherwise pytest's")
    arguments = parser.parse_args()
    os.chdir(REPOSITORY)
    try:
        set_up()
        match arguments.command:
            case "rehearsal":
                return call([PYTHON, "-m", "tests.box.rehearse", *arguments.rest])
            case "benchmarks":
                return benchmarks(arguments.rest)
            case "lint":
                return _first_failure(call([PYTHON, *step]) for step in (*RUFF, MYPY))
            case "quick":
                return _first_failure(
                    call(argv) for argv in (*([PYTHON, *step] for step in RUFF), quick(arguments.rest))
                )
            case "long":
                return call([*_pytest(1), "-m", "long", *(arguments.rest or ["tests"])])
        return check(arguments.rest)
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def check(rest: Sequence[str]) -> int:
    """Lint, then all tests in one process more than there are cores, since a box mostly waits; types beside them."""
    if code := _first_failure(call([PYTHON, *step]) for step in RUFF):
        return code
    types_argv: list[str | Path] = [PYTHON, *MYPY]
    record: list[str | Path] = ["--record-durations", DURATIONS] if "--record" in rest else []
    if rest and not record:
        return call(types_argv) or call([PYTHON, "-m", "pytest", *rest])
    processes = (os.cpu_count() or 1) + 1
    print(f"Expected: {_expected_minutes(processes):.0f} minutes, by tests/durations.json of a machine with 2 cores.")
    print(f"$ {shlex.join(map(_short, types_argv))}  # beside the tests; its output follows at the end", flush=True)
    with tempfile.TemporaryFile() as output:
        types = subprocess.Popen(types_argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            tests = call([*_pytest(processes), "-m", "not long", *record, "tests"])
            status = types.wait()
        finally:
            types.kill()
        output.seek(0)
        print(f"\nTypes: {output.read().decode(errors='replace').strip()}", flush=True)
    return tests or status


def quick(rest: Sequence[str]) -> list[str | Path]:
    """The command that runs every file of tests without a box that takes seconds."""
    slow = sorted(name for name, seconds in _durations().items() if seconds > QUICK_FILE_S)
    print(f"Left out, since they take longer than {QUICK_FILE_S:.0f} s or need a box: {len(slow)} files.")
    left_out = [f"--ignore={name}" for name in slow]
    return [*_pytest(os.cpu_count() or 1), "-m", "not box and not vm and not long", *left_out, *(rest or ["tests"])]


def benchmarks(rest: Sequence[str]) -> int:
    """Run each benchmark in turn; with --smoke, as the tests do, for seconds."""
    if "--smoke" in rest:
        return call([PYTHON, "-m", "pytest", "-q", "tests/benchmarks"])
    return _first_failure(call([PYTHON, "-m", f"tests.benchmarks.{name}", *rest]) for name in BENCHMARKS)


def _pytest(processes: int) -> list[str | Path]:
    # Whole files, in the order in which tests/progress.py puts them.
    return [
        *(PYTHON, "-m", "pytest", "-q", "-p", "tests.progress"),
        *("-n", str(processes), "--dist", "loadfile", "--no-loadscope-reorder"),
    ]


def _expected_minutes(processes: int) -> float:
    return sum(_durations().values()) / processes / 60


def _durations() -> dict[str, float]:
    durations: dict[str, float] = json.loads(DURATIONS.read_text())
    return durations


def _first_failure(codes: Iterable[int]) -> int:
    """The first exit status that is not 0; what comes after it is not run."""
    return next((code for code in codes if code), 0)


def set_up() -> None:
    """Install the missing Debian packages, the pinned uv, and .venv as locked. Raises SetUpError."""
    install_packages()
    synchronise(install_uv())
    # Tests start pyinfra hundreds of times, and it writes no bytecode of what it imports.
    _require([PYTHON, "-m", "compileall", "-q", "tasks"])


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
