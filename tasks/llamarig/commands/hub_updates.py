"""Compare the model lock with the Hub, and update the entries of the named models."""

from __future__ import annotations

import re

from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State

from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.engine.hub_resolver import resolve
from llamarig.engine.hub_token import HubError
from llamarig.engine.item import Commands
from llamarig.engine.refuse import refuse, report
from llamarig.engine.run import run
from llamarig.engine.screen import say
from llamarig.records.lock_changes import lock_changes
from llamarig.records.model_lock import LockedModel, lock_key, move_locked_model, read_model_lock
from llamarig.records.store import RecordError

_COMMIT = re.compile(r"[0-9a-f]{40}")


@operation()
def compared(rig: Rig, update: tuple[str, ...] = ()) -> Commands:
    """Compare each model's lock entry with its branch on the Hub.

    :param update: names of models whose entries are updated, or ``all``
    """
    names = [model.name for model in rig.models]
    if unknown := [name for name in update if name not in (*names, "all")]:
        yield from refuse(f"--data update={','.join(unknown)} names no model of this box: name {', '.join(names)}")
        return
    yield FunctionCommand(_compare_models, [rig, update], {})


def _compare_models(state: State, host: Host, rig: Rig, update: tuple[str, ...]) -> bool:
    try:
        token = run().hub_tokens.of(rig.hub)
        for model in rig.models:
            _compare_model(host, rig, model, token, update=model.name in update or "all" in update)
    except (HubError, RecordError) as error:
        report(host, str(error))
        return False
    return True


def _compare_model(host: Host, rig: Rig, model: Model, token: str | None, *, update: bool) -> None:
    locked = read_model_lock(rig.model_lock).models.get(lock_key(model))
    is_pinned = bool(_COMMIT.fullmatch(model.revision))
    # A commit never changes, so a model pinned to one is compared with the default branch.
    branch = "main" if is_pinned else model.revision
    latest = resolve(model.model_copy(update={"revision": branch}), rig.hub.endpoint, token)
    if locked is None:
        say(host, f"{model.name}: not locked yet; a deploy locks it to {latest.commit[:12]}")
        return
    say(host, f"{model.name}: {_verdict(locked, latest, branch)}")
    for line in lock_changes(locked, latest):
        say(host, f"    {line}")
    if not update or latest == locked:
        return
    if is_pinned and latest.commit != locked.commit:
        say(host, f"    its revision is a commit: to update, declare revision={latest.commit!r}")
        return
    move_locked_model(rig.model_lock, lock_key(model), latest)
    say(host, f"    locked to {latest.commit[:12]}: commit {rig.model_lock}, then run deploy.py")


def _verdict(locked: LockedModel, latest: LockedModel, branch: str) -> str:
    if latest.commit == locked.commit:
        other = "" if latest == locked else ", but the lock has other files than are declared"
        return f"{branch} is at the locked commit {locked.commit[:12]}{other}"
    same = "" if lock_changes(locked, latest) else ", with the same files"
    return f"locked to {locked.commit[:12]}, {branch} is at {latest.commit[:12]}{same}"
