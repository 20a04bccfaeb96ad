"""Tests see nothing of the user who runs them: a home, a cache and an environment of their own. A pytest plugin.

Boxes are the exception. They are made in the user's cache, which is decided here once, before HOME is replaced, and
handed on by the fixture ``users_box``; so what was compiled for one box is there for the next.

Whatever a test without a box opens below the user's home fails that test, and so does a program that a test starts and
tests/programs.py does not find: what it finds is what the set-up has to install.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shutil import rmtree, which
from unittest.mock import patch

import pytest

from tests.box.paths import Rehearsal
from tests.programs import ROOT, started

ANOTHER_USERS = ("XDG_", "LLAMARIG_", "HF_", "HUGGING", "ANSIBLE_", "PYINFRA_", "GIT_", "SSH_AUTH_SOCK", "SSH_AGENT")
"""Beginnings of variables that say where a user's state is or what he prefers."""
KEPT = ("LLAMARIG_TEST_", "LLAMARIG_KEEP_TEST_BOX", "GIT_SSL_")
"""Choose the tests' own box; let git through a proxy that inspects TLS."""
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
"""In either case. A box needs the user's to reach Debian's mirrors; tests without one talk to this machine alone."""

OPENED = {
    *("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink"),
    *("os.chmod", "os.truncate", "os.utime", "sqlite3.connect"),
}
"""Audit events whose first argument is a path (docs.python.org, "Audit events table"); `stat` has none."""
PATHS = {"os.rename": slice(0, 2), "os.link": slice(0, 2), "os.symlink": slice(1, 2)}
"""Which arguments are paths, where it is not the first alone; what a symbolic link points to is text."""


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is imported, for group_data/ asks which box is meant when it is."""
    try:
        box = Rehearsal.from_environment()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    homes = {str(path) for place in (Path.home(), box.cache, box.directory) for path in (place, place.resolve())}
    own = Path(tempfile.mkdtemp(prefix="llamarig-tests-home-"))
    watch = Watch(box, dict(os.environ), own, tuple(home for home in homes if home != "/"))
    _environment({**_without(ANOTHER_USERS), "HOME": str(own)})
    config.stash[WATCH] = watch
    sys.addaudithook(watch.hook)


def pytest_unconfigure(config: pytest.Config) -> None:
    watch = config.stash.get(WATCH, None)
    if watch is not None:
        watch.over = True  # an audit hook cannot be taken away
        _environment(watch.before)
        rmtree(watch.own, ignore_errors=True)


@dataclass
class Watch:
    """What the session decided when it began, and what the test at hand has done since."""

    users_box: Rehearsal
    before: dict[str, str]
    """The environment to go back to."""
    own: Path
    homes: tuple[str, ...]
    fast: bool = True
    over: bool = False
    noting: bool = False
    """While it notes something Python reads sources for the traceback, which are no test's doing."""
    seen: list[str] = field(default_factory=list)

    @cached_property
    def allowed(self) -> tuple[str, ...]:
        """Ours and the interpreter's, all of which may lie in a home."""
        places = (self.own, ROOT, sys.prefix, sys.base_prefix, tempfile.gettempdir())
        return tuple({str(path) for place in places for path in (Path(place), Path(place).resolve())})

    @cached_property
    def programs(self) -> frozenset[str]:
        return frozenset(started())

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        """Called by Python for each audit event; it must not raise, or it would change what the test sees."""
        if self.over or self.noting:
            return
        if event == "subprocess.Popen":
            name = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
            # One that is not here fails the test by itself, or is one that nobody has.
            if "/" not in name and name not in self.programs and which(name):
                self._note(f"started the program {name!r}, which tests/programs.py does not find")
        elif self.fast and event in OPENED:
            for argument in arguments[PATHS.get(event, slice(0, 1))]:
                if isinstance(argument, str | bytes | os.PathLike) and self._is_the_users(os.fsdecode(argument)):
                    self._note(f"{event} of {os.fsdecode(argument)}, below the home of the user who runs the tests")

    def _is_the_users(self, path: str) -> bool:
        try:
            path = os.path.normpath(Path(path).absolute())
        except OSError:
            return False  # relative to a working directory that was deleted
        return _below(path, self.homes) and not _below(path, self.allowed)

    def _note(self, what: str) -> None:
        self.noting = True
        where = "".join(traceback.format_stack(limit=12)[:-2])
        self.seen.append(f"{what}, at\n{where}")
        self.noting = False

    def complain(self) -> None:
        """:raises pytest.fail.Exception: with everything that was noted since the last time"""
        seen, self.seen = self.seen, []
        if seen:
            pytest.fail("a test or a module of tests " + "\nand ".join(seen), pytrace=False)


WATCH = pytest.StashKey[Watch]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What the modules did as they were imported is no test's."""
    session.config.stash[WATCH].complain()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    watch = item.config.stash[WATCH]
    watch.fast = not any(item.get_closest_marker(name) for name in ("box", "vm"))
    with patch.dict(os.environ):
        if watch.fast:
            for name in PROXIES:
                os.environ.pop(name, None)
                os.environ.pop(name.upper(), None)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    item.config.stash[WATCH].complain()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    item.config.stash[WATCH].complain()
    return result


@pytest.fixture(scope="session")
def users_box(request: pytest.FixtureRequest) -> Rehearsal:
    """The rehearsal box of the user who runs the tests: never touched, but its cache is the tests' too."""
    return request.config.stash[WATCH].users_box


def _without(beginnings: tuple[str, ...]) -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name.startswith(KEPT) or not name.startswith(beginnings)
    }


def _environment(wanted: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(wanted)


def _below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)
