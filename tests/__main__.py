"""Set this machine up, then rehearse or test: python3 -m tests rehearsal|quick|check|long|lint|benchmarks.

Runs on the bare python3 (>= 3.11) of a fresh Debian or Ubuntu, so it uses the standard library only. The first run
downloads from Debian's mirrors and PyPI; later runs need no network.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.abilities import REMEDY, abilities, choose, left_out_markers
from tests.set_up import (
    LONG_PACKAGES,
    PACKAGES,
    PYTHON,
    REHEARSAL_PACKAGES,
    REPOSITORY,
    VM_PACKAGES,
    SetUpError,
    call,
    set_up,
    short,
)

DURATIONS = REPOSITORY / "tests/durations.json"
BENCHMARKS = ("converge", "audit", "download", "large_download", "front")

RUFF = (("-m", "ruff", "check"), ("-m", "ruff", "format", "--check"))
MYPY = ("-m", "mypy")

COMMANDS = {
    "rehearsal": "the whole deploy on a disposable Debian on this machine",
    "quick": "lint, and the tests that need neither root nor a box and take seconds",
    "check": "lint, types and all tests but the long ones",
    "long": "the tests that take many minutes each; run before a release",
    "lint": "lint and types only",
    "benchmarks": "each benchmark; with --smoke for seconds, as `check` does",
}
QUICK_FILE_S = 6.0
"""`quick` leaves out files that take longer, by tests/durations.json."""

DIRECTORIES = {"box": ("tests/box/", "tests/benchmarks/"), "vm": ("tests/vm/",)}
"""Marker -> where nearly all tests with it are."""


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
    # pytest keeps the tests as bytecode, which takes each process 5 s to collect; without it, 11 s.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        if arguments.command == "rehearsal":
            set_up(packages_of_rehearsal(), groups=["rehearsal"])
        else:
            set_up((*PACKAGES, *LONG_PACKAGES) if arguments.command == "long" else PACKAGES)
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


def packages_of_rehearsal() -> Sequence[str]:
    """The Debian packages for what a rehearsal boots here.

    :raises SetUpError: where it can boot nothing
    """
    choice = choose(abilities())
    if choice.kind == "none":
        raise SetUpError(f"This machine can boot no box: {choice.reason}.\n{REMEDY}")
    return VM_PACKAGES if choice.kind == "vm" else REHEARSAL_PACKAGES


def check(rest: Sequence[str]) -> int:
    """Lint, then all tests in one process more than there are cores, since a box mostly waits; types beside them."""
    if code := _first_failure(call([PYTHON, *step]) for step in RUFF):
        return code
    left_out = left_out_markers(abilities())
    for marker, reason in left_out.items():
        print(f"Tests marked {marker} are left out, since {reason}.", flush=True)
    types_argv: list[str | Path] = [PYTHON, *MYPY]
    record: list[str | Path] = ["--record-durations", DURATIONS] if "--record" in rest else []
    if rest and not record:
        return call(types_argv) or call([PYTHON, "-m", "pytest", *rest])
    processes = (os.cpu_count() or 1) + 1
    minutes = expected_minutes(_durations(), processes, left_out)
    print(f"Expected: at least {minutes:.0f} minutes, by tests/durations.json (2 cores).")
    print(f"$ {shlex.join(map(short, types_argv))}  # beside the tests; its output follows at the end", flush=True)
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
    slow, unmeasured = slow_files(_durations()), unmeasured_files(_durations())
    print(f"Left out: tests that need a box or root, and {len(slow)} files that take longer than {QUICK_FILE_S:.0f} s.")
    if unmeasured:
        print(f"Also, until `python3 -m tests check --record` has measured them: {', '.join(unmeasured)}.")
    left_out = [f"--ignore={name}" for name in (*slow, *unmeasured)]
    return [*_pytest(os.cpu_count() or 1), "-m", "not box and not vm and not long", *left_out, *(rest or ["tests"])]


def slow_files(durations: Mapping[str, float]) -> list[str]:
    """Those that `quick` leaves out for their durations."""
    return sorted(name for name, seconds in durations.items() if seconds > QUICK_FILE_S)


def unmeasured_files(durations: Mapping[str, float]) -> list[str]:
    """Files without a box that are not in tests/durations.json: they may take minutes."""
    files = (path.relative_to(REPOSITORY) for path in (REPOSITORY / "tests").rglob("test_*.py"))
    return sorted(str(path) for path in files if str(path) not in durations and path.parts[1] not in ("box", "vm"))


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


def expected_minutes(durations: Mapping[str, float], processes: int, left_out: Iterable[str]) -> float:
    """How long the tests take at least.

    :param durations: file -> seconds
    :param left_out: markers of tests that cannot run here
    """
    without = tuple(directory for marker in left_out for directory in DIRECTORIES[marker])
    return sum(seconds for name, seconds in durations.items() if not name.startswith(without)) / processes / 60


def _durations() -> dict[str, float]:
    durations: dict[str, float] = json.loads(DURATIONS.read_text())
    return durations


def _first_failure(codes: Iterable[int]) -> int:
    """The first exit status that is not 0; what comes after it is not run."""
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
