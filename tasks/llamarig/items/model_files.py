"""The model files of a box, compared with the sizes and sha256 of the model lock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.context import host

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, MoreInputs, Query, Seen, Severity, query
from llamarig.engine.jobs import none_runs, start_job
from llamarig.engine.run import run
from llamarig.engine.screen import say
from llamarig.facts.jobs import RunningJob, RunningJobs
from llamarig.facts.model_store import FileHashes, ModelStore
from llamarig.items.download_conflicts import missing_from_running, running_download_refusal
from llamarig.items.download_job import fetch_job, missing_files, names_of, room_missing
from llamarig.items.model_lock import PROVIDE_TOKEN, LockedModels, hub_token_refusal
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
        """The model store and running jobs; with ``deep`` also the sha256 of every locked file, from the disk."""
        if here.locked is not None:
            yield query(ModelStore)
            yield query(RunningJobs)
            if here.deep:
                yield query(FileHashes, paths=_paths(here.locked))

    def more_inputs(self, rig: Rig, seen: Seen) -> MoreInputs:
        """The Hub token, if a deploy would start a download."""
        missing = files_to_fetch(seen)
        starts = any(one.by_deploy for _, _, one in missing) and _running(seen) is None
        return MoreInputs(hub_token=starts and _room_missing(rig, seen, missing) is None)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each file, after the reason for which a deploy would refuse to fetch them.

        A deploy does not replace a file that the disk cannot read. It waits for a running download that brings all.
        """
        missing = files_to_fetch(seen)
        found = [difference for _, _, difference in missing]
        refused = _refusal(rig, seen, missing) if any(one.by_deploy for one in found) else None
        if refused is None:
            return found
        refusal, first = refused
        return [
            refusal,
            *(replace(one, remedy=f"{first}, then run deploy.py") if one.by_deploy else one for one in found),
        ]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Start the download. It goes on while releases are built."""
        store, missing = seen.get(ModelStore), files_to_fetch(seen)
        if _running(seen) is not None:
            say(host, "the download is already running on the box")
            return
        token = run().hub_tokens.of(rig.hub)  # the comparison has read it, and would have refused
        yield none_runs(FETCH)
        # Without its record a file is not served until it has been fetched again.
        untrusted = sorted(record_of(path) for path in _targets(missing) | names_of(_again(seen, missing), store.files))
        yield StringCommand("rm", "-f", *(QuoteString(path) for path in untrusted))
        yield from start_job(
            FETCH,
            "download.fetch_shards",
            fetch_job(missing, rig.hub, store.files),
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
    hashes = seen.get(FileHashes, paths=_paths(locked)) if seen.here.deep else None
    return missing_files(locked, seen.get(ModelStore).files, hashes)


def _running(seen: Seen) -> RunningJob | None:
    return seen.get(RunningJobs).get(FETCH)


def _refusal(rig: Rig, seen: Seen, missing: Missing) -> tuple[Difference, str] | None:
    """Why a deploy would not fetch these files, and what the owner has to do first; None if it would."""
    if (running := _running(seen)) is not None:
        job = fetch_job(missing, rig.hub, seen.get(ModelStore).files)
        lacks = missing_from_running(running.read(FetchJob), job, _again(seen, missing))
        if not lacks:
            return None
        message = running_download_refusal(running, lacks)
        return Difference.refusal_of("downloads", "none but of these files", message), "let the running download end"
    if (short := _room_missing(rig, seen, missing)) is not None:
        return short, "make room"
    if seen.here.hub_token_problem:
        return hub_token_refusal(seen), PROVIDE_TOKEN
    return None


def _room_missing(rig: Rig, seen: Seen, missing: Missing) -> Difference | None:
    store = seen.get(ModelStore)
    return room_missing(missing, store.files, store.free, rig) if store.free is not None else None


def _targets(missing: Missing) -> set[str]:
    return {target(model, file) for model, file, _ in missing}


def _again(seen: Seen, missing: Missing) -> set[str]:
    """Files whose bytes are wrong although their records are valid: a download that already runs skips them."""
    return _targets(missing) - _targets(missing_files(seen.here.locked or (), seen.get(ModelStore).files))


def _paths(locked: Sequence[LockedModel]) -> list[str]:
    return [target(model, file) for model in locked for file in model.files]
