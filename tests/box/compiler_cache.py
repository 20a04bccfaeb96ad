"""The compiler's cache of all boxes, for a program that copies it as a whole while other boxes compile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def borrowed(cache: Path, directory: Path) -> Iterator[Path]:
    """Give a copy that nothing else writes to; what was added to it is added to the cache, also after a failure.

    :param directory: of the copy; on the cache's file system it costs no room, since ccache renames whole files
    """
    shutil.rmtree(directory, ignore_errors=True)
    _add(cache, directory, os.link)
    try:
        yield directory
    finally:
        _add(directory, cache, os.replace)
        shutil.rmtree(directory, ignore_errors=True)


def _add(source: Path, target: Path, put: Callable[[Path, Path], None]) -> None:
    """Add the files that ``target`` lacks. Files that go meanwhile are left out: ccache deletes its oldest."""
    target.mkdir(parents=True, exist_ok=True)
    for directory, _, names in os.walk(source):
        here = target / os.path.relpath(directory, source)
        here.mkdir(exist_ok=True)
        for name in names:
            if (here / name).exists():
                continue
            with suppress(FileNotFoundError):
                try:
                    put(Path(directory, name), here / name)
                except FileNotFoundError:
                    raise
                except OSError:  # another file system
                    shutil.copy2(Path(directory, name), here / name)
