"""A rehearsal boots a container where it can, otherwise a virtual machine; tests that cannot run are left out aloud."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.abilities import Abilities, Choice, abilities, choose, container_lacks, emulator_lacks
from tests.set_up import REPOSITORY

ROOT = Abilities(
    root=True,
    sys_admin=True,
    mounts=True,
    chroot=True,
    user_namespaces=False,
    kvm=True,
    processor="x86_64",
)
IN_A_CONTAINER = replace(ROOT, sys_admin=False, mounts=False)
USER = replace(IN_A_CONTAINER, root=False, chroot=False, user_namespaces=True)
TESTS_OF_BOTH_KINDS = "tests/test_readme.py"


def test_root_of_a_machine_boots_a_container() -> None:
    assert choose(ROOT) == Choice("container")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (IN_A_CONTAINER, "root has no CAP_SYS_ADMIN here"),
        (replace(ROOT, mounts=False), "root may not mount here"),
        (replace(IN_A_CONTAINER, kvm=False), "root has no CAP_SYS_ADMIN here"),
        (USER, "needs root"),
    ],
)
def test_where_no_container_can_be_booted_it_is_a_virtual_machine(found: Abilities, reason: str) -> None:
    choice = choose(found)
    assert choice.kind == "vm"
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("found", "reasons"),
    [
        (replace(IN_A_CONTAINER, chroot=False), ("CAP_SYS_ADMIN", "CAP_SYS_CHROOT")),
        (replace(USER, user_namespaces=False), ("needs root", "user namespaces", "/etc/subuid")),
        (replace(IN_A_CONTAINER, processor="aarch64"), ("CAP_SYS_ADMIN", "aarch64")),
    ],
)
def test_where_neither_can_be_booted_both_reasons_are_given(found: Abilities, reasons: tuple[str, ...]) -> None:
    choice = choose(found)
    assert choice.kind == "none"
    assert all(reason in choice.reason for reason in reasons)


def test_the_tests_virtual_machine_needs_root_but_not_sys_admin() -> None:
    assert emulator_lacks(IN_A_CONTAINER) == ""
    assert "root" in emulator_lacks(USER)


def without_sys_admin(*words: str | Path, ci: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command with what most containers leave of root; as an ordinary user, with what that user has."""
    argv = list(words)
    if not container_lacks(abilities()):
        argv = ["setpriv", "--bounding-set=-sys_admin", "--no-new-privs", *words]
    return subprocess.run(argv, cwd=REPOSITORY, env={**os.environ, "CI": ci}, capture_output=True, text=True)


def test_a_process_without_sys_admin_is_seen_as_one() -> None:
    script = "from tests.abilities import abilities, choose; print(choose(abilities()).reason)"
    done = without_sys_admin(sys.executable, "-c", script)
    assert ("CAP_SYS_ADMIN" if os.geteuid() == 0 else "needs root") in done.stdout, done.stderr


def pytest_without_sys_admin(*words: str, ci: str = "") -> subprocess.CompletedProcess[str]:
    return without_sys_admin(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, ci=ci)


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "two processes"])
def test_tests_that_cannot_run_are_left_out_and_the_others_run(processes: tuple[str, ...]) -> None:
    """Regression: each of them failed, with `clone() failed: Operation not permitted`."""
    done = pytest_without_sys_admin(TESTS_OF_BOTH_KINDS, *processes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Left out: ") == 1
    assert "so no container can be booted." in done.stdout or "needs root." in done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_a_run_of_which_every_test_is_left_out_succeeds() -> None:
    assert pytest_without_sys_admin(TESTS_OF_BOTH_KINDS, "-m", "box").returncode == 0


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "two processes"])
def test_with_ci_a_run_fails_for_tests_that_were_left_out(processes: tuple[str, ...]) -> None:
    done = pytest_without_sys_admin(TESTS_OF_BOTH_KINDS, *processes, ci="true")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Failed for it: with CI=true no test may be left out." in done.stdout
