"""What everything else stands on: the service user, our directories, our programs. One question to the box for each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from pyinfra.api.operation import operation
from pyinfra.context import host
from pyinfra.operations import files, server

from tasks.facts.files import Ownership, Sha256Sums, UserExists
from tasks.operations import Commands
from tasks.operations.once import read_once


@operation()
def service_user(user: str, home: str) -> Commands:
    """A system user who can do nothing but serve."""
    if read_once(UserExists, user=user):
        host.noop(f"user {user} exists")
        return
    yield from server.user._inner(
        user=user, system=True, shell="/usr/sbin/nologin", home=home, ensure_home=False, create_home=False
    )


@operation()
def directories(paths: Sequence[str]) -> Commands:
    """Directories of root that everybody may read, or links to such."""
    owners = read_once(Ownership, paths=list(paths))
    for path in paths:
        if owners.get(path) != "root root 755 directory":
            yield from files.directory._inner(path=path, user="root", group="root", mode="755")


@operation()
def programs(sources: Mapping[str, str]) -> Commands:
    """Programs of ours, byte for byte on the box.

    :param sources: path here -> path there
    """
    found = read_once(Sha256Sums, paths=list(sources.values()))
    for source, target in sources.items():
        if found.get(target) != _sha256(source):
            yield from files.put._inner(src=source, dest=target, mode="644", create_remote_dir=True)


@cache
def _sha256(path: str) -> str:
    """Of a file here, once for all hosts."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
