"""The model files of a box, compared with the sizes and sha256 of the model lock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.context import host

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.hub_token import HubError
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, Severity, query
from llamarig.engine.jobs import none_runs, start_job
from llamarig.engine.refuse import refuse
from llamarig.engine.run import run
from llamarig.facts.files import Sha256Sums
from llamarig.facts.jobs import RunningJobs
from llamarig.facts.model_store import ModelStore
from llamarig.items.download_conflicts import missing_from_running, running_download_refusal
from llamarig.items.download_job import fetch_job, missing_files, names_of, room_missing
from llamarig.items.model_lock import LockedModels
from llamarig.records.model_lock import LockedFile, LockedModel
from llamarig.remote.shared.jobs import FetchJob
from llamarig.render import layout
from llamarig.render.model_paths import record_of, target

FETCH = "fetch"
"""Name of the download job; one runs at a time on a box."""

Missing = list[tuple[LockedModel, LockedFile, Difference]]


class FetchedModels(Item):
    """Every locked file has the size, time and inode of its verification; --data deep=1 reads every byte."""

    name = "Model files"
    check = "llama.model-files"
    severity = Severity.ERROR
    needs = (LockedModels,)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The model store; with ``deep`` also the sha256 of every locked file, read from the disk."""
        if here.locked is not None:
            yield query(ModelStore)
            if here.deep:
                yield query(Sha256Sums, paths=_paths(here.locked))

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each file. A deploy does not replace a file that the disk cannot read.

        Where the room is missing, a deploy refuses to start a download, and waits for one that brings them already.
        """
        missing = files_to_fetch(seen)
        found = [difference for _, _, difference in missing]
        store = seen.get(ModelStore) if missing else None
        short = room_missing(missing, store.files, store.free, rig) if store and store.free is not None else None
        if short is None:
            return found
        waiting = [replace(one, remedy="make room, then run deploy.py") if one.by_deploy else one for one in found]
        return [replace(short, stops_deploy=False), *waiting]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Start the download, if it has the room. It goes on while releases are built."""
        locked, store, missing = seen.here.locked or (), seen.get(ModelStore), files_to_fetch(seen)
        job = fetch_job(missing, rig.hub, store.files)
        targets = {target(model, file) for model, file, _ in missing}
        # Files whose bytes are wrong although their records are valid: a download that is already running skips them.
        again = targets - {target(model, file) for model, file, _ in missing_files(locked, store.files)}
        running = host.get_fact(RunningJobs).get(FETCH)
        if running is not None:
            if lacks := missing_from_running(running.read(FetchJob), job, again):
                yield from refuse(running_download_refusal(running, lacks))
                return
            host.log("the download is already running on the box")
            return
        short = room_missing(missing, store.files, store.free, rig) if store.free is not None else None
        if short is not None:
            yield from refuse("no download was started: the model store lacks the disk space named above")
            return
        try:
            token = run().hub_tokens.of(rig.hub)
        except HubError as error:
            yield from refuse(str(error))
            return
        yield none_runs(FETCH)
        # Without its record a file is not served until it has been fetched again.
        untrusted = sorted(record_of(path) for path in targets | names_of(again, store.files))
        yield StringCommand("rm", "-f", *(QuoteString(path) for path in untrusted))
        yield from start_job(
            FETCH,
            "download.fetch_shards",
            job,
            python=f"{layout.HUB_VENV}/bin/python",
            properties=[f"ReadWritePaths={layout.MODELS}"],
            secret=("hub-token", token) if token else None,
            stops_another=False,
        )


def files_to_fetch(seen: Seen) -> Missing:
    """The model files that differ from the model lock."""
    locked = seen.here.locked
    if locked is None:
        return []
    hashes = seen.get(Sha256Sums, paths=_paths(locked)) if seen.here.deep else None
    return missing_files(locked, seen.get(ModelStore).files, hashes)


def _paths(locked: Sequence[LockedModel]) -> list[str]:
    return [target(model, file) for model in locked for file in model.files]
