"""The model store as downloads and imports use it: one at a time, and without links out of it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llamarig.remote.shared.job_status import JobFailedError

_LOCK_WAIT_S = 10


@contextmanager
def exclusive_use(store: Path) -> Iterator[int]:
    """Hold the store's lock; yields its descriptor, which child processes keep open, so that an orphan holds it too."""
    descriptor = os.open(store / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise JobFailedError(f"another download is at work in {store}: wait for it, or stop it") from None
                time.sleep(0.5)
        yield descriptor
    finally:
        os.close(descriptor)


def refuse_links(store: Path, targets: Iterable[str]) -> None:
    """Refuse links below the store: neither a download nor a server sees where they lead. The store may be one.

    :param targets: paths of model files
    :raises JobFailedError: naming every link, and where it leads
    """
    found: dict[str, None] = {}
    for target in map(Path, targets):
        for path in (target, *target.parents):
            if path == store or store not in path.parents:
                break
            if path.is_symlink():
                found[f"{path} is a link to {path.readlink()}"] = None
    if found:
        raise JobFailedError(
            f"{'; '.join(found)}: a server's sandbox does not see what is there. Remove the link, and declare the "
            f"directory that it leads to as the model's import_from; or make the whole store, {store}, a link"
        )
