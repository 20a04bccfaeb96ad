"""Every program that is started on the control machine is in a package that the set-up installs."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.box.host import COMMAND_PATH, PACKAGE_OF
from tests.box.virtual_box import PACKAGE_OF as PACKAGE_OF_VM
from tests.programs import started, started_by
from tests.set_up import LONG_PACKAGES, PACKAGES, REHEARSAL_PACKAGES, VM_PACKAGES

REQUIRED_BY_README = {"python3", "apt-get", "uv"}
"""What the set-up runs with, and what installs: the READMEs require them, so the set-up does not install them."""

needs_dpkg = pytest.mark.skipif(
    shutil.which("dpkg-query") is None, reason="looks packages up with dpkg-query, which this machine lacks"
)


@cache
def essential() -> frozenset[str]:
    query = ["dpkg-query", "--show", "--showformat=${Essential} ${Package}\\n"]
    output = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    return frozenset(line.partition(" ")[2] for line in output.splitlines() if line.startswith("yes "))


def packages_of(program: str) -> set[str]:
    """The Debian packages that contain this program; empty if it is not installed or not from a package."""
    found = shutil.which(program, path=COMMAND_PATH)
    if found is None:
        return set()
    # With a merged /usr, dpkg may record /bin/x or /usr/bin/x; a program behind an alternative has its resolved path.
    places = {place for path in (found, str(Path(found).resolve())) for place in (path, f"/usr{path}")}
    places |= {place.removeprefix("/usr") for place in places}
    query = ["dpkg-query", "--search", *sorted(places)]
    output = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    # "package: path", "package, package: path" or "package:architecture: path"; a diversion is a line of prose.
    lines = (line.rpartition(": ")[0] for line in output.splitlines() if not line.startswith("diversion by "))
    return {name.partition(":")[0] for line in lines for name in line.split(", ")}


@needs_dpkg
@pytest.mark.parametrize("program", sorted(started().keys() - REQUIRED_BY_README - {*LONG_PACKAGES}))
def test_a_started_program_is_in_an_installed_package(program: str) -> None:
    packages = packages_of(program)
    origin = f"of {', '.join(sorted(packages))}" if packages else "not installed here"
    assert packages & {*PACKAGES, *essential()}, (
        f"{', '.join(started()[program])} start {program}, which is {origin}: add its package to PACKAGES in "
        "tests/set_up.py"
    )


def test_packages_that_a_box_requires_of_its_host_are_installed() -> None:
    assert set(PACKAGE_OF.values()) <= set(REHEARSAL_PACKAGES) <= set(PACKAGES)
    assert set(PACKAGE_OF_VM.values()) <= set(VM_PACKAGES) <= set(PACKAGES)


def test_the_scan_covers_the_commands_of_the_readme() -> None:
    assert {"curl", "python3"} <= {program for program, files in started().items() if "README.md" in files}


@needs_dpkg
def test_packages_of_an_unknown_and_of_an_essential_program() -> None:
    assert packages_of("no-such-command-here") == set()
    assert packages_of("sh") & essential()


SOURCE = """
import shutil, subprocess
from tests.box.host import run
def ssh_argv(box):
    return [*prefix(box), "ssh", "-p", "22"]
run(["mke2fs", "-q", disk], what="no disk")
subprocess.run(["sh", "-c", "cd /tmp && curl -s x | jq ."])
argv = [*("chroot", str(root), "qemu"), "-m"]
subprocess.Popen(argv)
git = ["git", "-C", "x"]
subprocess.run([*git, "init"])
shutil.which("nvcc")
for each in (["apt-get", "update"], argv):
    _require_quietly(each)
words = ["not", "started"]
for more in (["fetch", "x"], words):
    subprocess.run(["git", *more])
nspawn = ["systemd-nspawn", "--boot"]
subprocess.run(["sh", "-c", '"$@" & echo $!', *nspawn])
subprocess.run([sys.executable, "-m", "x"])
self.run("model")
"""


def test_the_scan_finds_exactly_the_started_programs() -> None:
    assert started_by(SOURCE) == {
        "ssh",
        "mke2fs",
        "sh",
        "curl",
        "jq",
        "chroot",
        "git",
        "nvcc",
        "apt-get",
        "systemd-nspawn",
    }
