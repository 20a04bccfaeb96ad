"""Keeps a second test run from deleting what the first one uses."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def exclusive_use(directory: Path, remedy: str = "") -> Iterator[None]:
    """Lock a directory of boxes for this test run; fail the test at once where another run holds it.

    :param remedy: how both can run side by side, as the end of "Wait for its end"
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f"{directory.name}.tests-lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pytest.fail(f"Another test run is using {directory}. Wait for its end{remedy}.", pytrace=False)
        yield
