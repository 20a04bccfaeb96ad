"""Pytest plugin that isolates tests from the user who runs them: temporary home, empty cache, filtered environment.

Boxes are made in the user's real cache, so that one box can use what was compiled for another. The plugin determines
that cache before it replaces HOME; the fixture ``users_box`` passes it on.

A test without a box fails when it opens a file below the user's home. Every test fails when it starts a program that
tests/programs.py does not list, because the set-up installs only the packages of listed programs.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shutil import rmtree, which
from typing import Any
from unittest.mock import patch

import pytest

from tests.box.paths import Rehearsal
from tests.programs import ROOT, started

REMOVED_PREFIXES = ("XDG_", "LLAMARIG_", "HF_", "HUGGING", "ANSIBLE_", "PYINFRA_", "GIT_", "SSH_AUTH_SOCK", "SSH_AGENT")
"""Prefixes of environment variables that hold a user's state or preferences."""
KEPT_PREFIXES = ("LLAMARIG_TEST_", "LLAMARIG_KEEP_TEST_BOX", "GIT_SSL_")
"""Exceptions: these choose the test box, and let git work through a proxy that inspects TLS."""
PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
"""In lower or upper case. Kept for tests with a box, which reach Debian's mirrors through the user's proxy."""

USERS_ENVIRONMENT = "llamarig_users_environment"

FILE_EVENTS = {
    *("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink"),
    *("os.chmod", "os.truncate", "os.utime", "sqlite3.connect"),
}
"""Audit events whose first argument is a path (docs.python.org, "Audit events table"); `stat` has none."""
PATH_ARGUMENTS = {"os.rename": slice(0, 2), "os.link": slice(0, 2), "os.symlink": slice(1, 2)}
"""Which arguments are paths, for events where it is not only the first. The target of a symbolic link is not opened."""


def pytest_configure(config: pytest.Config) -> None:
    """Replace the environment before any test module is imported: group_data/ reads it on import.

    A process that pytest-xdist starts inherits the replaced environment, so it goes back to the user's first.
    """
    before: dict[str, str] | None = getattr(config, "workerinput", {}).get(USERS_ENVIRONMENT)
    if before is not None:
        _replace_environment(before)
        platform.platform()  # pytest-xdist calls it later, and the first call starts `uname`
    try:
        box = Rehearsal.from_environment()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    users = (Path.home(), box.cache, box.directory)
    directories = {str(path) for directory in users for path in (directory, directory.resolve())} - {"/"}
    home = Path(tempfile.mkdtemp(prefix="llamarig-tests-home-"))
    monitor = Monitor(box, dict(os.environ), home, tuple(directories))
    _replace_environment({**_environment_without(REMOVED_PREFIXES), "HOME": str(home)})
    config.stash[MONITOR] = monitor
    sys.addaudithook(monitor.hook)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the user's environment to a process that pytest-xdist starts."""
    node.workerinput[USERS_ENVIRONMENT] = node.config.stash[MONITOR].original_environment


def pytest_unconfigure(config: pytest.Config) -> None:
    monitor = config.stash.get(MONITOR, None)
    if monitor is not None:
        monitor.is_disabled = True  # Python cannot remove an audit hook
        _replace_environment(monitor.original_environment)
        rmtree(monitor.home, ignore_errors=True)


@dataclass
class Monitor:
    """Audit hook that records what the current test opens and starts against the rules of this module."""

    users_box: Rehearsal
    original_environment: dict[str, str]
    home: Path
    """Temporary home of the tests."""
    users_directories: tuple[str, ...]
    is_fast_test: bool = True
    is_disabled: bool = False
    is_recording: bool = False
    """Set while a violation is recorded: formatting the traceback opens source files, which is not the test's doing."""
    violations: list[str] = field(default_factory=list)

    @cached_property
    def allowed(self) -> tuple[str, ...]:
        """Directories that tests may use even where they are below the user's home."""
        directories = (self.home, ROOT, sys.prefix, sys.base_prefix, tempfile.gettempdir())
        return tuple({str(path) for each in directories for path in (Path(each), Path(each).resolve())})

    @cached_property
    def programs(self) -> frozenset[str]:
        return frozenset(started())

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        """Called by Python for each audit event. It never raises, because that would change what the test sees."""
        if self.is_disabled or self.is_recording:
            return
        if event == "subprocess.Popen":
            name = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
            # A program that is not installed fails the test by itself, where the test needs it.
            if "/" not in name and name not in self.programs and which(name):
                self._record(f"started the program {name!r}, which tests/programs.py does not find")
        elif self.is_fast_test and event in FILE_EVENTS:
            for argument in arguments[PATH_ARGUMENTS.get(event, slice(0, 1))]:
                if isinstance(argument, str | bytes | os.PathLike) and self._belongs_to_user(os.fsdecode(argument)):
                    self._record(f"{event} of {os.fsdecode(argument)}, below the home of the user who runs the tests")

    def _belongs_to_user(self, path: str) -> bool:
        try:
            path = os.path.normpath(Path(path).absolute())
        except OSError:
            return False  # relative to a working directory that was deleted
        return _is_below(path, self.users_directories) and not _is_below(path, self.allowed)

    def _record(self, violation: str) -> None:
        self.is_recording = True
        stack = "".join(traceback.format_stack(limit=12)[:-2])
        self.violations.append(f"{violation}, at\n{stack}")
        self.is_recording = False

    def fail_on_violations(self) -> None:
        """Fail with the violations since the last call.

        :raises pytest.fail.Exception: if there were any
        """
        violations, self.violations = self.violations, []
        if violations:
            pytest.fail("a test or a module of tests " + "\nand ".join(violations), pytrace=False)


MONITOR = pytest.StashKey[Monitor]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail the run for violations during import, so that they do not count against the first test."""
    session.config.stash[MONITOR].fail_on_violations()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    monitor = item.config.stash[MONITOR]
    monitor.is_fast_test = not any(item.get_closest_marker(name) for name in ("box", "vm"))
    with patch.dict(os.environ):
        if monitor.is_fast_test:
            for name in PROXY_VARIABLES:
                os.environ.pop(name, None)
                os.environ.pop(name.upper(), None)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    item.config.stash[MONITOR].fail_on_violations()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    if nextitem is None:
        # Fixtures of the session end with its last test, whichever that is; a box among them is in the user's cache.
        item.config.stash[MONITOR].is_fast_test = False
    result = yield
    item.config.stash[MONITOR].fail_on_violations()
    return result


@pytest.fixture(scope="session")
def users_box(request: pytest.FixtureRequest) -> Rehearsal:
    """The rehearsal box of the user who runs the tests. Tests share its cache and leave the box itself alone."""
    return request.config.stash[MONITOR].users_box


def _environment_without(prefixes: tuple[str, ...]) -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(KEPT_PREFIXES) or not name.startswith(prefixes)
    }


def _replace_environment(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _is_below(path: str, directories: tuple[str, ...]) -> bool:
    return any(path == directory or path.startswith(f"{directory}/") for directory in directories)
