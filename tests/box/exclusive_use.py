"""Keeps a second test run from deleting what the first one uses."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def exclusive_use(directory: Path, remedy: str = "") -> Iterator[None]:
    """Lock a directory for this test run; fail the test at once where another run has locked it.

    :param remedy: how both runs can go side by side: the end of the sentence "Wait for its end", with its comma
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f"{directory.name}.tests-lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pytest.fail(f"Another test run is using {directory}. Wait for its end{remedy}.", pytrace=False)
        yield
