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
from llamarig.engine.jobs import await_jobs, start_job
from llamarig.engine.refuse import refuse
from llamarig.engine.run import read_fact, run
from llamarig.engine.screen import say
from llamarig.facts.jobs import RunningJob, RunningJobs
from llamarig.facts.model_store import FileHashes, ModelStore
from llamarig.items.download_conflicts import missing_from_running, running_download_refusal
from llamarig.items.download_job import fetch_job, missing_files, names_of, room_missing
from llamarig.items.import_job import IMPORT, PROPERTIES, import_job, not_imported
from llamarig.items.model_architectures import architecture_queries, unknown_architectures, wanted_architectures
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
    begins_work = True
    check = "llama.model-files"
    severity = Severity.ERROR
    needs = (LockedModels,)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The model store, running jobs, releases; with ``deep`` also the sha256 of every locked file on the disk."""
        if here.locked is not None:
            yield query(ModelStore)
            yield query(RunningJobs)
            yield from architecture_queries(rig, here)
            if here.deep:
                yield query(FileHashes, paths=_paths(here.locked))

    def more_inputs(self, rig: Rig, seen: Seen) -> MoreInputs:
        """The Hub token, if a deploy would start a download."""
        missing = files_to_fetch(seen)
        starts = any(one.by_deploy for _, _, one in missing) and not _running_instead(rig, seen, missing)
        return MoreInputs(hub_token=starts and _room_missing(rig, seen, missing) is None)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each file, after the reason for which a deploy would refuse to fetch or serve them.

        A deploy does not replace a file that the disk cannot read. It waits for a running download that brings all.
        """
        missing = files_to_fetch(seen)
        found = [difference for _, _, difference in missing]
        if unknown := unknown_architectures(rig, seen):
            first = "declare a llama.cpp that knows the model, then run deploy.py"
            return [*unknown, *(replace(one, remedy=first) if one.by_deploy else one for one in found)]
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
        if _running_instead(rig, seen, missing):
            say(host, "the download is already running on the box")
            return
        job = import_job(rig, missing, seen.here.locked or (), store.files)
        if job.files:
            takeover = seen.here.takeover
            yield from start_job(
                IMPORT, "download.import_files", job, sandboxed=False, properties=PROPERTIES, takeover=takeover
            )
            yield await_jobs({IMPORT: "files on the box"})
            store = read_fact(ModelStore, fresh=True)
            missing = not_imported(missing, job, store.files)
            if not missing:
                return
            if store.free is not None and (short := room_missing(missing, store.files, store.free, rig)) is not None:
                yield from refuse(short.refusal)
                return
        token = run().hub_tokens.of(rig.hub)  # the comparison has read it, and would have refused
        # Without its record a file is not served until it has been fetched again.
        untrusted = sorted(record_of(path) for path in _targets(missing) | names_of(_again(seen, missing), store.files))
        yield StringCommand("rm", "-f", *(QuoteString(path) for path in untrusted))
        yield from start_job(
            FETCH,
            "download.fetch_shards",
            fetch_job(
                missing, rig.hub, store.files, wanted_architectures(rig, seen, [model for model, _, _ in missing])
            ),
            python=f"{layout.HUB_VENV}/bin/python",
            properties=[f"ReadWritePaths={layout.MODELS}"],
            secret=("hub-token", token) if token else None,
            takeover=seen.here.takeover,
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


def _running_instead(rig: Rig, seen: Seen, missing: Missing) -> bool:
    """Whether a download runs that is waited for: one that brings all that is missing, or that may not be stopped."""
    running = _running(seen)
    if running is None or not seen.here.takeover:
        return running is not None
    job = fetch_job(missing, rig.hub, seen.get(ModelStore).files)
    return not missing_from_running(running.read(FetchJob), job, _again(seen, missing))


def _refusal(rig: Rig, seen: Seen, missing: Missing) -> tuple[Difference, str] | None:
    """Why a deploy would not fetch these files, and what the owner has to do first; None if it would."""
    if (running := _running(seen)) is not None:
        job = fetch_job(missing, rig.hub, seen.get(ModelStore).files)
        lacks = missing_from_running(running.read(FetchJob), job, _again(seen, missing))
        if not lacks or seen.here.takeover:
            return None
        message = running_download_refusal(running, lacks)
        return Difference.refusal_of("downloads", "none but of these files", message), "let the running download end"
    if (short := _room_missing(rig, seen, missing)) is not None:
        return short, "make room"
    if seen.here.hub_token_problem:
        return hub_token_refusal(seen), PROVIDE_TOKEN
    return None


def _room_missing(rig: Rig, seen: Seen, missing: Missing) -> Difference | None:
    """The missing disk space, without files that may already lie on the box: that is known after the import."""
    store = seen.get(ModelStore)
    imported = {file.target for file in import_job(rig, missing, seen.here.locked or (), store.files).files}
    fetched = [one for one in missing if target(one[0], one[1]) not in imported]
    return room_missing(fetched, store.files, store.free, rig) if store.free is not None else None


def _targets(missing: Missing) -> set[str]:
    return {target(model, file) for model, file, _ in missing}


def _again(seen: Seen, missing: Missing) -> set[str]:
    """Files whose bytes are wrong although their records are valid: a download that already runs skips them."""
    return _targets(missing) - _targets(missing_files(seen.here.locked or (), seen.get(ModelStore).files))


def _paths(locked: Sequence[LockedModel]) -> list[str]:
    return [target(model, file) for model in locked for file in model.files]
