"""Builds and downloads: started here, side by side on the box, and awaited together."""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host

from tasks.facts.jobs import Jobs, RunningJobs
from tasks.facts.model_store import FileHashes, ModelStore, Store
from tasks.facts.releases import Release, Releases
from tasks.operations import Commands, closes
from tasks.operations.jobs import await_jobs, is_running, none_runs, start_job
from tasks.operations.lock_file import LockError, hub_token, locked_models
from tasks.operations.model_lock import locked_or_refused
from tasks.operations.once import read_once
from tasks.operations.refuse import refuse
from tasks.planning import layout
from tasks.planning.checks.llama_cpp import ModelFiles, ModelLock, ReleasesWhole
from tasks.planning.difference import Difference
from tasks.planning.fetch_under_way import in_the_way, lacking
from tasks.planning.release import build_job, release_differences, release_path
from tasks.planning.shards import fetch_job, names_of, record_of, room_missing, shard_differences, target
from tasks.planning.sharing import is_received
from tasks.spec.build import Build
from tasks.spec.model_lock import LockedFile, LockedModel
from tasks.spec.rig import Rig

FETCH = "fetch"


def build_job_name(build: Build, rig: Rig) -> str:
    """One job a release, so that two builds may be under way at once."""
    commit, _, key = release_path(build, rig.models).rsplit("/", 1)[-1].partition("-")
    return f"build-{commit[:12]}-{key}"


def releases_to_build(rig: Rig, releases: Mapping[str, Release]) -> list[tuple[Build, list[Difference]]]:
    """The builds whose release is not whole."""
    found = []
    for build in rig.builds:
        path = release_path(build, rig.models)
        release = releases.get(path, Release())
        if differences := release_differences(path, release.manifest, release.files):
            found.append((build, differences))
    return found


def release_directories(rig: Rig) -> list[str]:
    """Where the declared builds' releases lie."""
    return [release_path(build, rig.models) for build in rig.builds]


def read_releases(rig: Rig, *, fresh: bool = False) -> dict[str, Release]:
    """The box's releases of the declared builds."""
    return read_once(Releases, fresh=fresh, directories=release_directories(rig))


def to_build_here(rig: Rig, *, fresh: bool = False) -> list[tuple[Build, list[Difference]]]:
    """Those of them that this box builds; what others build for it, it receives (tasks/operations/sharing.py)."""
    if all(is_received(build, host.name) for build in rig.builds):
        return []
    releases = read_releases(rig, fresh=fresh)
    return [item for item in releases_to_build(rig, releases) if not is_received(item[0], host.name)]


def files_to_fetch(
    locked: list[LockedModel], store: Store, deep: bool
) -> list[tuple[LockedModel, LockedFile, Difference]]:
    """The model files that are not as locked; ``deep`` reads every byte of those that seem to be."""
    hashes = None
    if deep:
        paths = [target(model, file) for model in locked for file in model.files]
        present = [path for path in paths if path in store.files]
        host.log(f"reading {sum(store.files[path].size for path in present) / 1024**3:.1f} GiB of model files")
        hashes = host.get_fact(FileHashes, paths=present) if present else {}
    return shard_differences(locked, store.files, hashes)


@operation()
@closes(ReleasesWhole)
def builds_started(rig: Rig) -> Commands:
    """The build of every release of its own that is not whole is under way on the box."""
    unfinished = to_build_here(rig)
    if not unfinished:
        host.noop("every release is whole")
        return
    jobs = host.get_fact(Jobs, names=[build_job_name(build, rig) for build, _ in unfinished])
    for build, _ in unfinished:
        name, job = build_job_name(build, rig), build_job(build, rig.models)
        if is_running(jobs.get(name), job):
            host.log(f"{name} is already under way on the box")
            continue
        yield from start_job(
            name,
            "build_release",
            job,
            properties=[f"ReadWritePaths={layout.WORK} {layout.CACHE} {layout.RELEASES}", "CPUWeight=20"],
        )


@operation()
@closes(ModelFiles, ModelLock)
def downloads_started(rig: Rig, deep: bool = False) -> Commands:
    """The download of every model file that is not as locked is under way on the box, if it has the room."""
    locked = yield from locked_or_refused(rig)
    if locked is None:
        return
    store = read_once(ModelStore)
    missing = files_to_fetch(locked, store, deep)
    if not missing:
        host.noop("every model file is as locked")
        return
    # The download would read them too, to no better end; and what a failing disk still holds, its owner may want.
    if unreadable := [str(difference) for _, _, difference in missing if not difference.by_deploy]:
        yield from refuse("; ".join(unreadable))
        return
    job = fetch_job(missing, rig.hub, store.files)
    targets = {target(model, file) for model, file, _ in missing}
    # These count as arrived for whoever looks no deeper; a download that runs already reads none of them again.
    again = targets - {target(model, file) for model, file, _ in shard_differences(locked, store.files)}
    running = host.get_fact(RunningJobs).get(FETCH)
    if running is not None:
        if lacks := lacking(running.job, job, again):
            yield from refuse(in_the_way(running, lacks))
            return
        host.log("the download is already under way on the box")
        return
    short = room_missing(missing, store.files, store.free or 0, rig)
    if short is not None:
        yield from refuse(str(short))
        return
    try:
        token = hub_token(rig.hub)
    except LockError as error:
        yield from refuse(str(error))
        return
    for _, _, difference in missing:
        host.log(difference.finding)
    yield none_runs(FETCH)
    # A record speaks for bytes that are no longer trusted: without it nothing serves the file until it is fetched anew.
    untrusted = sorted(record_of(path) for path in targets | names_of(again, store.files))
    yield StringCommand("rm", "-f", *(QuoteString(path) for path in untrusted))
    yield from start_job(
        FETCH,
        "fetch_shards",
        job,
        python=f"{layout.HUB_VENV}/bin/python",
        properties=[f"ReadWritePaths={layout.MODELS}"],
        secret=("hub-token", token) if token else None,
        stops_another=False,
    )


@operation()
@closes(ModelFiles, ReleasesWhole, ModelLock)
def long_work_finished(rig: Rig) -> Commands:
    """Every build and download has ended well: releases are whole, model files are as locked."""
    unfinished = to_build_here(rig)
    labels = {build_job_name(build, rig): f"build {build.name}" for build, _ in unfinished}
    if _lacks_model_files(rig):
        labels[FETCH] = "models"
    if not labels:
        host.noop("releases are whole, model files are as locked")
        return
    yield await_jobs(labels)
    still = [str(item) for _, found in to_build_here(rig, fresh=True) for item in found]
    if _lacks_model_files(rig, fresh=True):
        still.append("model files are not all as locked")
    if still:
        yield from refuse("the work ended and yet something is missing: run deploy.py again", still)


def _lacks_model_files(rig: Rig, *, fresh: bool = False) -> bool:
    try:
        locked = locked_models(rig)
    except LockError:
        return True  # said in full by the operation that starts the downloads
    return locked is None or bool(shard_differences(locked, read_once(ModelStore, fresh=fresh).files))
