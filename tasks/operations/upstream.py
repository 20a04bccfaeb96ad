"""What the Hub has newer than the model lock, told; and the lock moved to it for the models that are named."""

from __future__ import annotations

import re

from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State

from tasks.operations import Commands
from tasks.operations.hub_resolver import resolve
from tasks.operations.lock_file import ONE_WRITER, LockError, hub_token, read_lock, write_lock
from tasks.operations.refuse import refuse, report
from tasks.planning.lock_changes import lock_changes
from tasks.spec.model import Model
from tasks.spec.model_lock import LockedModel, ModelLock, lock_key
from tasks.spec.rig import Rig

_COMMIT = re.compile(r"[0-9a-f]{40}")


@operation()
def compared(rig: Rig, update: tuple[str, ...] = ()) -> Commands:
    """Each model's lock entry against its branch on the Hub now; ``update`` names the models to move, or ``all``."""
    names = [model.name for model in rig.models]
    if unknown := [name for name in update if name not in (*names, "all")]:
        yield from refuse(f"update names {', '.join(unknown)}, which is no model of this box: name {', '.join(names)}")
        return
    yield FunctionCommand(_compare, [rig, update], {})


def _compare(state: State, host: Host, rig: Rig, update: tuple[str, ...]) -> bool:
    with ONE_WRITER:  # several boxes may declare the same model
        try:
            token = hub_token(rig.hub)
            for model in rig.models:
                _compare_model(host, rig, model, token, move=model.name in update or "all" in update)
        except LockError as error:
            report(host, str(error))
            return False
    return True


def _compare_model(host: Host, rig: Rig, model: Model, token: str | None, *, move: bool) -> None:
    lock = read_lock(rig.model_lock)
    locked = lock.models.get(lock_key(model))
    is_pinned = bool(_COMMIT.fullmatch(model.revision))
    # A commit never has anything newer; what its repository offers by default may.
    branch = "main" if is_pinned else model.revision
    upstream = resolve(model.model_copy(update={"revision": branch}), rig.hub.endpoint, token)
    if locked is None:
        host.log(f"{model.name}: not locked yet; a deploy locks it to {upstream.commit[:12]}")
        return
    host.log(f"{model.name}: {_verdict(locked, upstream, branch)}")
    for line in lock_changes(locked, upstream):
        host.log(f"    {line}")
    if not move or upstream == locked:
        return
    if is_pinned and upstream.commit != locked.commit:
        host.log(f"    its revision is a commit: to move, declare revision={upstream.commit!r}")
        return
    write_lock(rig.model_lock, ModelLock(models={**lock.models, lock_key(model): upstream}))
    host.log(f"    locked to {upstream.commit[:12]}: commit {rig.model_lock}, then run deploy.py")


def _verdict(locked: LockedModel, upstream: LockedModel, branch: str) -> str:
    if upstream.commit == locked.commit:
        other = "" if upstream == locked else ", and yet the lock has other files than are declared"
        return f"{branch} is where it is locked, {locked.commit[:12]}{other}"
    same = "" if lock_changes(locked, upstream) else ", with the same files"
    return f"locked to {locked.commit[:12]}, {branch} is at {upstream.commit[:12]}{same}"
