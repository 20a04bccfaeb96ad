"""Compare the model lock with the Hub, and update the entries of the named models."""

from __future__ import annotations

import re

from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State

from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.engine.hub_headers import with_architecture
from llamarig.engine.hub_resolver import resolve
from llamarig.engine.hub_token import HubError
from llamarig.engine.item import Commands
from llamarig.engine.refuse import refuse, report
from llamarig.engine.run import conclude, run
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
        yield from refuse(
            f"--data update={','.join(unknown)} names no model of this box: name {', '.join(names) or 'none'}"
        )
        return
    yield FunctionCommand(_compare_models, [rig, update], {})


def _compare_models(state: State, host: Host, rig: Rig, update: tuple[str, ...]) -> bool:
    results: dict[str, list[str]] = {}
    try:
        token = run().hub_tokens.of(rig.hub)
        for model in rig.models:
            result = _compare_model(host, rig, model, token, update=model.name in update or "all" in update)
            results.setdefault(result, []).append(model.name)
    except (HubError, RecordError) as error:
        report(host, str(error))
        return False
    lines = [f"{result}: {', '.join(names)}" for result, names in results.items()]
    conclude(host, *(lines or ["no model is declared"]))
    return True


_CURRENT, _NOT_LOCKED, _MOVED = "at the Hub's revision", "not locked yet, which a deploy does", "moved in the lock"
_NEWER, _PINNED = "newer on the Hub (--data update=NAME)", "newer on the Hub, and pinned to a commit"


def _compare_model(host: Host, rig: Rig, model: Model, token: str | None, *, update: bool) -> str:
    """Show how the model's entry differs from the Hub; return what is the case, for the closing block."""
    locked = read_model_lock(rig.model_lock).models.get(lock_key(model))
    is_pinned = bool(_COMMIT.fullmatch(model.revision))
    # A commit never changes, so a model pinned to one is compared with the default branch.
    branch = "main" if is_pinned else model.revision
    latest = resolve(model.model_copy(update={"revision": branch}), rig.hub.endpoint, token)
    if locked is None:
        say(host, f"{model.name}: not locked yet; a deploy locks it to {latest.commit[:12]}")
        return _NOT_LOCKED
    latest = latest.model_copy(update={"architecture": locked.architecture})
    say(host, f"{model.name}: {_verdict(locked, latest, branch)}")
    for line in lock_changes(locked, latest):
        say(host, f"    {line}")
    if latest == locked:
        return _CURRENT
    if not update:
        return _NEWER
    if is_pinned and latest.commit != locked.commit:
        say(host, f"    its revision is a commit: to update, declare revision={latest.commit!r}")
        return _PINNED
    moved = with_architecture(model, latest, rig.hub.endpoint, token)
    move_locked_model(rig.model_lock, lock_key(model), moved)
    say(host, f"    locked to {latest.commit[:12]}: commit {rig.model_lock}, then run deploy.py")
    return _MOVED


def _verdict(locked: LockedModel, latest: LockedModel, branch: str) -> str:
    if latest.commit == locked.commit:
        other = "" if latest == locked else ", but the lock has other files than are declared"
        return f"{branch} is at the locked commit {locked.commit[:12]}{other}"
    same = "" if lock_changes(locked, latest) else ", with the same files"
    return f"locked to {locked.commit[:12]}, {branch} is at {latest.commit[:12]}{same}"
