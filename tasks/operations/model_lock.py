"""Every declared model resolved once on the Hub, into the model lock, and then never asked for again."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand, PyinfraCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host

from tasks.operations import Commands, closes
from tasks.operations.lock_file import ONE_WRITER, LockError, hub_token, locked_models, read_lock, write_lock
from tasks.operations.refuse import refuse, report
from tasks.planning.checks.llama_cpp import ModelLock as ModelLockCheck
from tasks.spec.model import Model
from tasks.spec.model_lock import LockedModel, ModelLock, lock_key
from tasks.spec.rig import Rig


def locked_or_refused(rig: Rig) -> Generator[PyinfraCommand, None, list[LockedModel] | None]:
    """``yield from`` it: the lock entries of the box's models, or None after a refusal that says why there are none."""
    try:
        locked = locked_models(rig)
    except LockError as error:
        yield from refuse(str(error))
        return None
    if locked is None:
        yield from refuse(f"{rig.model_lock} lacks a declared model: run deploy.py, which asks the Hub for it")
    return locked


@operation()
@closes(ModelLockCheck)
def models_locked(rig: Rig) -> Commands:
    """Every model of the box has its revision, sizes and sha256 in the model lock."""
    try:
        lock = read_lock(rig.model_lock)
    except LockError as error:
        yield from refuse(str(error))
        return
    missing = [model for model in rig.models if lock_key(model) not in lock.models]
    if not missing:
        host.noop(f"every model is in {rig.model_lock}")
        return
    yield FunctionCommand(_resolve_missing, [rig, missing], {})


def _resolve_missing(state: State, host: Host, rig: Rig, models: list[Model]) -> bool:
    # The Hub's client takes a third of a no-change run to import, and such a run never asks the Hub.
    from tasks.operations.hub_resolver import resolve

    with ONE_WRITER:  # several boxes may declare the same model
        try:
            token = hub_token(rig.hub)
            lock = read_lock(rig.model_lock)
            for model in models:
                if lock_key(model) in lock.models:
                    continue
                locked = resolve(model, rig.hub.endpoint, token)
                lock = ModelLock(models={**lock.models, lock_key(model): locked})
                write_lock(rig.model_lock, lock)
                host.log(
                    f"{model.name}: locked to {locked.repo} at {locked.commit[:12]}, {len(locked.shards)} shard(s); "
                    f"commit {rig.model_lock}"
                )
        except LockError as error:
            report(host, str(error))
            return False
    return True
