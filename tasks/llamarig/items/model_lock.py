"""The model lock: every declared model is resolved on the Hub once, and from then on taken from the lock."""

from __future__ import annotations

from dataclasses import replace

from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from llamarig.declare.rig import Rig
from llamarig.engine.hub_token import HubError
from llamarig.engine.item import Commands, Difference, Item, MoreInputs, Seen, Severity
from llamarig.engine.refuse import report
from llamarig.engine.run import run
from llamarig.engine.screen import say
from llamarig.records.model_lock import lock_key, lock_model, read_model_lock
from llamarig.records.store import RecordError

PROVIDE_TOKEN = "provide the Hub token"
"""Remedy of what a deploy would fetch from the Hub, up to ``, then run deploy.py``."""


class LockedModels(Item):
    """The model lock, a file of this repository, has an entry for every declared model."""

    name = "Model lock"
    check = "llama.model-lock"
    severity = Severity.ERROR

    def more_inputs(self, rig: Rig, seen: Seen) -> MoreInputs:
        """The Hub token, if an entry is missing."""
        return MoreInputs(hub_token=seen.here.locked is None and not seen.here.lock_problem)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One if the file cannot be read or lacks an entry, after the refusal if the Hub token to get it is missing."""
        here = seen.here
        if here.lock_problem:
            return [
                Difference(
                    rig.model_lock,
                    "a readable model lock",
                    here.lock_problem,
                    remedy="restore it from git",
                    by_deploy=False,
                    message=here.lock_problem,
                )
            ]
        if here.locked is None:
            expected, did = "an entry for every declared model", f"{rig.model_lock}: entries added, commit it"
            will = f"{rig.model_lock}: adds the missing entries, from the Hub"
            missing = Difference(rig.model_lock, expected, "an entry is missing", will=will, did=did)
            if not here.hub_token_problem:
                return [missing]
            return [hub_token_refusal(seen), replace(missing, remedy=f"{PROVIDE_TOKEN}, then run deploy.py")]
        return []

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Resolve the models without an entry on the Hub."""
        yield FunctionCommand(_resolve_missing, [rig], {})


def hub_token_refusal(seen: Seen) -> Difference:
    """The refusal where the declared Hub token cannot be read."""
    return Difference.refusal_of("Hub token", "one on the control machine", seen.here.hub_token_problem)


def _resolve_missing(state: State, host: Host, rig: Rig) -> bool:
    # Importing the Hub's client takes a third of the time of a no-change run, which never uses it.
    from llamarig.engine.hub_headers import with_architecture
    from llamarig.engine.hub_resolver import resolve

    try:
        token = run().hub_tokens.of(rig.hub)
        for model in rig.models:
            # Several boxes may declare the same model: the first one resolves it for all.
            if lock_key(model) in read_model_lock(rig.model_lock).models:
                continue
            entry = with_architecture(model, resolve(model, rig.hub.endpoint, token), rig.hub.endpoint, token)
            if lock_model(rig.model_lock, lock_key(model), entry) is entry:
                say(
                    host,
                    f"{model.name}: locked to {entry.repo} at {entry.commit[:12]}, {len(entry.shards)} shard(s); "
                    f"commit {rig.model_lock}",
                )
    except (HubError, RecordError) as error:
        report(host, str(error))
        return False
    return True
