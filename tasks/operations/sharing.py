"""Releases that one box builds for others: asked for, handed out, received.

pyinfra takes all hosts through one operation before it begins the next: so the box that builds has ended, well or not,
when the others ask for what it built. What they need of each other they leave here, in this process.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from pyinfra.api.command import FileDownloadCommand, FileUploadCommand, FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from tasks.facts.files import Sha256Sums
from tasks.facts.platform import RunsOn
from tasks.operations import Commands
from tasks.operations.jobs import await_jobs, start_job
from tasks.operations.long_work import build_job_name, read_releases, releases_to_build
from tasks.operations.refuse import refuse, report
from tasks.planning import layout
from tasks.planning.release import release_id, release_path
from tasks.planning.sharing import Needs, expected_needs, is_received, misfits, needs_of
from tasks.spec.build import Build
from tasks.spec.rig import Rig


@dataclass(frozen=True)
class _Archive:
    """A packed release on the control machine; ``sha256`` is the builder's own."""

    path: Path
    sha256: str
    needs: Needs


@dataclass
class _Run:
    """What this process's hosts have told each other, by release directory."""

    wanted: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    archives: dict[str, _Archive] = field(default_factory=dict)
    directory: tempfile.TemporaryDirectory[str] | None = None


_RUN = _Run()


def _lacking(rig: Rig) -> list[Build]:
    """The builds whose release another box has to give to this one."""
    if not any(is_received(build, host.name) for build in rig.builds):
        return []
    return [build for build, _ in releases_to_build(rig, read_releases(rig)) if is_received(build, host.name)]


def _builder(build: Build) -> Host:
    assert build.built_by is not None  # only received builds get here
    return state.inventory.get_host(build.built_by)


def _absence(build: Build) -> str | None:
    """Why the box that builds cannot give anything in this run; None where it can."""
    builder = _builder(build)
    if builder not in state.activated_hosts:
        return (
            f"build {build.name!r} comes from {builder.name}, which is not part of this run or was not reached: "
            "run deploy.py with both (see --limit)"
        )
    if builder not in state.active_hosts:
        return f"build {build.name!r} comes from {builder.name}, which failed in this run: see its own message above"
    return None


@operation()
def releases_asked_for(rig: Rig) -> Commands:
    """The boxes that build know what others need of them. Never a change; a pair that cannot work stops here."""
    missing = _lacking(rig)
    for build in missing:
        refusal = _absence(build)
        if refusal is not None:
            yield from refuse(refusal)
            return
        builder = _builder(build)
        if reasons := misfits(expected_needs(build, builder.get_fact(RunsOn)), host.get_fact(RunsOn)):
            yield from refuse(f"build {build.name!r} from {builder.name} cannot run here: {'; '.join(reasons)}")
            return
        if state.is_executing:
            _RUN.wanted[release_path(build, rig.models)].add(host.name)
    host.noop("what is to come from other boxes is asked for")


@operation()
def releases_handed_out(rig: Rig) -> Commands:
    """Every release of this box that another one lacks lies packed on the control machine."""
    asked = [
        build
        for build in rig.builds
        if build.built_by == host.name and state.is_executing and _RUN.wanted[release_path(build, rig.models)]
    ]
    if not asked:
        host.noop("no other box lacks a release of this one")
        return
    releases = read_releases(rig)
    for build in asked:
        path = release_path(build, rig.models)
        release = releases.get(path)
        needs = needs_of(release.manifest or {}) if release else None
        if needs is None:
            yield from refuse(
                f"{path} does not say what it needs of other boxes: it was built by an older llamarig; delete it, "
                "then deploy again"
            )
            return
        archive, name = _archive(build, rig), build_job_name(build, rig).replace("build-", "pack-", 1)
        yield from start_job(
            name, "pack_release", {"release": path, "archive": archive}, properties=[f"ReadWritePaths={layout.WORK}"]
        )
        yield await_jobs({name: f"build {build.name}"})
        sha256 = host.get_fact(Sha256Sums, paths=[archive]).get(archive, "")
        here = _directory() / release_id(build, rig.models)
        yield FileDownloadCommand(archive, str(here))
        yield FunctionCommand(_offer, [path, _Archive(here, sha256, needs)], {})
        yield StringCommand("rm", "-f", archive)


@operation()
def releases_received(rig: Rig) -> Commands:
    """Every release that another box builds for this one is whole."""
    if state.is_executing and not any(host.name in names for names in _RUN.wanted.values()):
        host.noop("no release is to come from another box")
        return
    missing = _lacking(rig)
    for build in missing:
        path = release_path(build, rig.models)
        offered = _RUN.archives.get(path)
        if offered is None:
            yield from refuse(
                _absence(build)
                or f"build {build.name!r} comes from {build.built_by}, which had not built it yet when this box asked: "
                "run deploy.py without --serial and --no-wait"
            )
            return
        if reasons := misfits(offered.needs, host.get_fact(RunsOn)):
            yield from refuse(f"build {build.name!r} from {build.built_by} cannot run here: {'; '.join(reasons)}")
            return
        archive, name = _archive(build, rig), build_job_name(build, rig).replace("build-", "receive-", 1)
        size = offered.path.stat().st_size
        host.log(f"build {build.name}: sending {size / 1024**2:.0f} MiB from {build.built_by}")
        yield StringCommand(f"mkdir -p {archive.rpartition('/')[0]}")
        yield FileUploadCommand(str(offered.path), archive)
        yield from start_job(
            name,
            "receive_release",
            {"archive": archive, "sha256": offered.sha256, "release": path, "builder": build.built_by},
            properties=[f"ReadWritePaths={layout.WORK} {layout.RELEASES}"],
        )
        yield await_jobs({name: f"build {build.name}"})
    if not missing:
        host.noop("every release of another box is whole")


def _archive(build: Build, rig: Rig) -> str:
    """Where the packed release lies, on the box that packs it and on those that receive it."""
    return f"{layout.WORK}/{release_id(build, rig.models)}/release.tar.gz"


def _directory() -> Path:
    """On the control machine, for this run alone."""
    if _RUN.directory is None:
        _RUN.directory = tempfile.TemporaryDirectory(prefix="llamarig-")
    return Path(_RUN.directory.name)


def _offer(state: State, host: Host, path: str, archive: _Archive) -> bool:
    """Let the others have it, if it is what the builder has."""
    with archive.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        report(host, f"{path} arrived here with sha256 {found}, it is {archive.sha256 or 'gone'} there: deploy again")
        return False
    _RUN.archives[path] = archive
    return True
