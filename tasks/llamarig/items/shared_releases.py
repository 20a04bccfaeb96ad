"""Releases that one box builds for others, in three steps: requested, packed by the builder, received.

pyinfra runs one operation on all hosts before it begins the next. So the builder has finished, or failed, when the
other boxes receive its release. Requests and archives are kept on pyinfra's state (engine/run.py).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyinfra.api.command import FileDownloadCommand, FileUploadCommand, FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import host, state

from llamarig.declare.build import Build
from llamarig.declare.rig import Rig
from llamarig.engine.builders import absence_of
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, MoreInputs, Query, Seen, query
from llamarig.engine.jobs import await_jobs, start_job
from llamarig.engine.refuse import refuse, report
from llamarig.engine.run import ask, run
from llamarig.engine.screen import say
from llamarig.engine.shared_builds import is_received, misfits, recorded_requirements
from llamarig.facts.files import Sha256Sums
from llamarig.facts.platform import HostPlatform, Platform
from llamarig.items.finished_work import FinishedWork
from llamarig.items.releases import (
    build_job_name,
    builders_needed,
    incomplete,
    release_queries,
    releases_of,
    with_refusal,
)
from llamarig.remote.shared.jobs import PackJob, ReceiveJob
from llamarig.render import layout
from llamarig.render.release import release_id, release_path

_ATTEMPTS = 3
"""At packing: another run that waited for the same archive may have fetched and deleted it before it was linked."""


@dataclass(frozen=True)
class Archive:
    """A packed release on the control machine; ``sha256`` as computed on the builder."""

    path: Path
    sha256: str
    needs: Platform


class RequestedReleases(Item):
    """Every release that this box needs from another one is requested there, and its binaries can run here."""

    name = "Releases requested"
    audited = False  # WholeReleases reports what is missing, and why it cannot be provided

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The releases and this box's platform, if some of them are shared."""
        return _queries(rig)

    def more_inputs(self, rig: Rig, seen: Seen) -> MoreInputs:
        """The boxes that build what this one lacks."""
        return builders_needed(rig, seen) if _missing_here(rig, seen) else MoreInputs()

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each release that this box needs from another one; a refusal if that one cannot provide it."""
        return [one for build, found in _missing_here(rig, seen) for one in with_refusal(build, found, seen)]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Request them."""
        if state.is_executing:
            for build, _ in _missing_here(rig, seen):
                run().wanted_releases.setdefault(release_path(build, rig.models), set()).add(host.name)
        yield from ()


class PackedReleases(Item):
    """Every requested release of this box is packed on the control machine."""

    name = "Releases packed"
    needs = (FinishedWork,)
    audited = False

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The releases, if some of them are shared."""
        return _queries(rig)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """The releases that were requested; a refusal for one that does not record what it requires of a box."""
        found = []
        for build in self._requested(rig, seen):
            what, expected = f"build {build.name}", "packed for the boxes that need it"
            if self._requirements(build, rig, seen) is not None:
                found.append(Difference(what, expected, "not packed yet"))
                continue
            refusal = (
                f"{release_path(build, rig.models)} was built by an older llamarig and does not record what it "
                "requires of other boxes: delete it, then deploy again"
            )
            found.append(Difference.refusal_of(what, expected, refusal))
        return found

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Pack each release on the box, fetch the archive, and make it available to the other boxes."""
        for build in self._requested(rig, seen):
            path, needs = release_path(build, rig.models), self._requirements(build, rig, seen)
            assert needs is not None  # else this was refused
            archive = f"{layout.WORK}/{release_id(build, rig.models)}/release.tar.gz"
            name = build_job_name(build, rig).replace("build-", "pack-", 1)
            job = PackJob(release=path, archive=archive)
            properties = [f"ReadWritePaths={layout.WORK}"]
            # A link of this run's own: another run that waits for the same archive deletes that one, and never this.
            mine = f"{archive}.{secrets.token_hex(4)}"
            directory = archive.rpartition("/")[0]
            yield StringCommand(f"mkdir -p {directory} && {_delete_old(directory)}")
            sha256 = ""
            for _ in range(_ATTEMPTS):
                yield from start_job(
                    name, "build.pack_release", job, takeover=seen.here.takeover, properties=properties
                )
                yield await_jobs({name: f"build {build.name}"})
                yield StringCommand(f"ln -f {archive} {mine} 2>/dev/null || true")
                if sha256 := ask(Sha256Sums, paths=[mine]).get(mine, ""):
                    break
            here = run().scratch / release_id(build, rig.models)
            yield FileDownloadCommand(mine, str(here))
            yield FunctionCommand(_offer, [path, Archive(here, sha256, needs)], {})
            yield StringCommand("rm", "-f", mine, archive)

    @staticmethod
    def _requirements(build: Build, rig: Rig, seen: Seen) -> Platform | None:
        release = releases_of(rig, seen).get(release_path(build, rig.models))
        return recorded_requirements(release.manifest or {}) if release else None

    @staticmethod
    def _requested(rig: Rig, seen: Seen) -> list[Build]:
        wanted = seen.here.wanted_releases
        return [
            build for build in rig.builds if build.built_by == seen.host and wanted.get(release_path(build, rig.models))
        ]


class ReceivedReleases(Item):
    """Every release that another box builds for this one is complete."""

    name = "Releases received"
    needs = (RequestedReleases,)
    audited = False

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The releases, if some of them are shared."""
        return _queries(rig)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each release that is still missing."""
        return [difference for _, found in _missing_here(rig, seen) for difference in found]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Send each archive to this box, which unpacks and verifies it."""
        for build, _ in _missing_here(rig, seen):
            path = release_path(build, rig.models)
            offered: Archive | None = run().archives.get(path)
            if offered is None:
                # The builder may have failed since this box requested its release.
                late = "had not built it when this box needed it: run deploy.py without --serial and --no-wait"
                why = absence_of(build.built_by or "") or late
                yield from refuse(f"build {build.name!r} comes from {build.built_by}, which {why}")
                return
            # Which C library it needs is known since it was compiled.
            if reasons := misfits(offered.needs, seen.get(HostPlatform)):
                yield from refuse(f"build {build.name!r} from {build.built_by} cannot run here: {'; '.join(reasons)}")
                return
            name = build_job_name(build, rig).replace("build-", "receive-", 1)
            say(
                host,
                f"build {build.name}: sending {offered.path.stat().st_size / 1024**2:.0f} MiB from {build.built_by}",
            )
            directory = f"{layout.WORK}/{release_id(build, rig.models)}"
            # By its content, since another run may be unpacking another archive of this release, or sending the same.
            archive = f"{directory}/{offered.sha256}.tar.gz"
            part = f"{archive}.{secrets.token_hex(4)}.part"
            yield StringCommand(f"mkdir -p {directory} && {_delete_old(directory)}")
            yield FileUploadCommand(str(offered.path), part)
            yield StringCommand(f"mv -f {part} {archive}")
            job = ReceiveJob(archive=archive, sha256=offered.sha256, release=path, builder=build.built_by or "")
            yield from start_job(
                name,
                "build.receive_release",
                job,
                takeover=seen.here.takeover,
                properties=[f"ReadWritePaths={layout.WORK} {layout.RELEASES}"],
            )
            yield await_jobs({name: f"build {build.name}"})


def _delete_old(directory: str) -> str:
    """The command that deletes archives that killed or refused runs have left: no transfer takes a day."""
    return f"find {directory} -maxdepth 1 -name '*.tar.gz*' -mmin +1440 -delete"


def _queries(rig: Rig) -> Iterable[Query[Any]]:
    if any(build.built_by for build in rig.builds):
        yield from release_queries(rig)
        yield query(HostPlatform)


def _missing_here(rig: Rig, seen: Seen) -> list[tuple[Build, list[Difference]]]:
    if not any(is_received(build, seen.host) for build in rig.builds):
        return []
    return [found for found in incomplete(rig, seen) if is_received(found[0], seen.host)]


def _offer(state: State, host: Host, path: str, archive: Archive) -> bool:
    """Make an archive available to the other boxes, if its sha256 is that of the builder."""
    with archive.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        report(host, f"{path} has sha256 {archive.sha256 or 'none'} on the box, {found} as received: deploy again")
        return False
    run().archives[path] = archive
    return True
