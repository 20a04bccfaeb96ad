"""The model lock and the Hub token, both on the machine that deploys: read and written here, and nowhere asked for."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from functools import cache
from pathlib import Path

from gevent.lock import BoundedSemaphore
from pydantic import ValidationError

from tasks.spec.model_lock import LockedModel, ModelLock, lock_key
from tasks.spec.rig import Hub, Rig

ONE_WRITER = BoundedSemaphore(1)


class LockError(Exception):
    """The model cannot be resolved, or the lock cannot be read; the message says what to do."""


def read_lock(path: str) -> ModelLock:
    """The lock file; an empty lock where there is none yet.

    :raises LockError: when the file is no lock
    """
    file = Path(path)
    if not file.exists():
        return ModelLock()
    try:
        return ModelLock.model_validate_json(file.read_text())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise LockError(
            f"{path} is no model lock ({'.'.join(map(str, first['loc']))}: {first['msg']}): restore it from git"
        ) from None


def locked_models(rig: Rig) -> list[LockedModel] | None:
    """The lock entries of a box's models, in their order; None while one is missing.

    :raises LockError: when the file is no lock
    """
    lock = read_lock(rig.model_lock)
    entries = [lock.models.get(lock_key(model)) for model in rig.models]
    return None if None in entries else [entry for entry in entries if entry is not None]


def hub_token(hub: Hub) -> str | None:
    """The Hub token from this machine's environment or a command on it, None where none is declared.

    :raises LockError: when one is declared and not there
    """
    if hub.token_command:
        return _token_of_command(hub.token_command)
    if hub.token_env is None:
        return None
    token = os.environ.get(hub.token_env, "").strip()
    if not token:
        raise LockError(f"hub.token_env names {hub.token_env}, which is not set here: export {hub.token_env}=hf_...")
    return token


@cache
def _token_of_command(command: tuple[str, ...]) -> str:
    """Asked once a run: a password manager may want to be unlocked for it. What it prints is shown nowhere."""
    shown = shlex.join(command)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        why = getattr(error, "strerror", None) or "it did not end within 120 s"
        raise LockError(f"hub.token_command `{shown}` cannot be run here: {why}") from None
    if done.returncode:
        raise LockError(f"hub.token_command `{shown}` failed with exit status {done.returncode}: run it by hand")
    words = done.stdout.split()
    if len(words) != 1:
        raise LockError(f"hub.token_command `{shown}` printed {len(words)} words where a token is one")
    return words[0]


def write_lock(path: str, lock: ModelLock) -> None:
    """Replace the lock file in one step; hold ONE_WRITER from reading it until here."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    content = lock.model_dump(mode="json", exclude_none=True)
    part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    part.replace(file)
