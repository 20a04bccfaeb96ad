"""Every program that is started on the control machine comes with the packages that the set-up installs."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.__main__ import PACKAGES
from tests.box.host import COMMAND_PATH, PACKAGE_OF
from tests.programs import started, started_by

BROUGHT = {"python3", "apt-get", "uv"}
"""What the set-up runs with, and what installs: the READMEs ask for these, in whatever package they are."""

by_dpkg = pytest.mark.skipif(
    shutil.which("dpkg-query") is None, reason="asks dpkg which package a program is of, and this machine has none"
)


@cache
def essential() -> frozenset[str]:
    query = ["dpkg-query", "--show", "--showformat=${Essential} ${Package}\\n"]
    said = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    return frozenset(line.partition(" ")[2] for line in said.splitlines() if line.startswith("yes "))


def packages_of(program: str) -> set[str]:
    """The packages that have this program; empty where it is on no PATH or none of dpkg's."""
    found = shutil.which(program, path=COMMAND_PATH)
    if found is None:
        return set()
    # Where /bin is a link to /usr/bin dpkg knows either name, and alternatives have one more.
    places = {place for path in (found, str(Path(found).resolve())) for place in (path, f"/usr{path}")}
    places |= {place.removeprefix("/usr") for place in places}
    query = ["dpkg-query", "--search", *sorted(places)]
    said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    # "package: path", "package, package: path" or "package:architecture: path"; diversions are told in sentences.
    lines = (line.rpartition(": ")[0] for line in said.splitlines() if not line.startswith("diversion by "))
    return {name.partition(":")[0] for line in lines for name in line.split(", ")}


@by_dpkg
@pytest.mark.parametrize("program", sorted(started().keys() - BROUGHT))
def test_a_program_is_in_the_packages_that_are_installed(program: str) -> None:
    packages = packages_of(program)
    where = f"of {', '.join(sorted(packages))}" if packages else "not here"
    assert packages & {*PACKAGES, *essential()}, (
        f"{', '.join(started()[program])} start {program}, which is {where}: add its package to PACKAGES in "
        "tests/__main__.py"
    )


def test_what_is_asked_of_the_machine_before_a_box_is_made_is_installed() -> None:
    assert set(PACKAGE_OF.values()) <= set(PACKAGES)


def test_the_readmes_commands_are_among_what_is_started() -> None:
    assert {"curl", "python3"} <= {program for program, files in started().items() if "README.md" in files}


@by_dpkg
def test_a_program_of_no_package_is_seen() -> None:
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
    _require(each)
words = ["not", "started"]
for more in (["fetch", "x"], words):
    subprocess.run(["git", *more])
nspawn = ["systemd-nspawn", "--boot"]
subprocess.run(["sh", "-c", '"$@" & echo $!', *nspawn])
subprocess.run([sys.executable, "-m", "x"])
self.run("model")
"""


def test_the_scan_finds_what_it_says_and_no_more() -> None:
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
