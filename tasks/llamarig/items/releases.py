"""Releases of llama.cpp: one directory for each declared build, complete or to be built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyinfra.context import host

from llamarig.declare.build import Build
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, MoreInputs, Query, Seen, Severity, query
from llamarig.engine.jobs import is_running, start_job
from llamarig.engine.run import ask
from llamarig.engine.screen import say
from llamarig.engine.shared_builds import expected_requirements, is_received, misfits
from llamarig.facts.jobs import Jobs
from llamarig.facts.platform import HostPlatform
from llamarig.facts.releases import Release, Releases
from llamarig.render import layout
from llamarig.render.release import build_job, release_path


class WholeReleases(Item):
    """Every declared build has its release, with each file of the manifest in the recorded size."""

    name = "Releases"
    begins_work = True
    check = "llama.release"
    severity = Severity.ERROR
    # A release that cannot be compiled is missing for that reason.
    covered_by = ("llama.toolkits",)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The manifests and files of the declared builds' releases, and the platform where some of them are shared."""
        yield from release_queries(rig)
        if any(build.built_by for build in rig.builds):
            yield query(HostPlatform)

    def more_inputs(self, rig: Rig, seen: Seen) -> MoreInputs:
        """The boxes that build what this one lacks."""
        return builders_needed(rig, seen)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each release that is missing or incomplete, also those that another box builds, if it can."""
        return [difference for build, found in incomplete(rig, seen) for difference in with_refusal(build, found, seen)]

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Start the builds of this box. They run while models are fetched; FinishedWork waits for them."""
        unfinished = builds_to_make(rig, seen)
        if not unfinished:
            return
        jobs = ask(Jobs, names=[build_job_name(build, rig) for build, _ in unfinished])
        for build, _ in unfinished:
            name, job = build_job_name(build, rig), build_job(build, rig.models)
            if is_running(jobs.get(name), job):
                say(host, f"{name} is already running on the box")
                continue
            yield from start_job(
                name,
                "build.build_release",
                job,
                takeover=seen.here.takeover,
                properties=[f"ReadWritePaths={layout.WORK} {layout.CACHE} {layout.RELEASES}", "CPUWeight=20"],
            )


def release_differences(path: str, release: Release) -> list[Difference]:
    """At most one difference, if a release is missing or incomplete."""
    name = path.rsplit("/", 1)[-1]
    what, commit = f"llama.cpp release {name[:20]}", name[:7]
    if release.manifest is None:
        will, did = f"llama.cpp {commit}: builds it, minutes to an hour", f"llama.cpp {commit}: built"
        return [Difference(what, "a complete release", "not built yet", will=will, did=did)]
    recorded = release.manifest.get("files", {})
    wrong = [name for name, file in recorded.items() if release.files.get(name) != file["size"]]
    if wrong:
        found = f"{', '.join(sorted(wrong))} missing or of another size"
        will, did = f"llama.cpp {commit}: builds it again, {found}", f"llama.cpp {commit}: built again"
        return [Difference(what, "a complete release", found, will=will, did=did)]
    return []


def release_queries(rig: Rig) -> Iterable[Query[Any]]:
    """What ``releases_of`` and ``incomplete`` read."""
    yield query(Releases, directories=release_directories(rig))


def release_directories(rig: Rig) -> list[str]:
    """Directories of the declared builds' releases."""
    return [release_path(build, rig.models) for build in rig.builds]


def releases_of(rig: Rig, seen: Seen) -> dict[str, Release]:
    """Directory -> the release in it."""
    return seen.get(Releases, directories=release_directories(rig))


def incomplete(rig: Rig, seen: Seen) -> list[tuple[Build, list[Difference]]]:
    """The builds whose release is missing or incomplete, with the differences."""
    releases = releases_of(rig, seen)
    paths = [(build, release_path(build, rig.models)) for build in rig.builds]
    found = [(build, release_differences(path, releases.get(path, Release()))) for build, path in paths]
    return [(build, differences) for build, differences in found if differences]


def builders_needed(rig: Rig, seen: Seen) -> MoreInputs:
    """The boxes that build what this one lacks."""
    missing = [build for build, _ in incomplete(rig, seen) if is_received(build, seen.host)]
    return MoreInputs(builders=frozenset(build.built_by for build in missing if build.built_by))


def with_refusal(build: Build, found: list[Difference], seen: Seen) -> list[Difference]:
    """The differences of a release; if another box builds it and cannot provide it, the refusal in their place.

    :param seen: with that box (``builders_needed``)
    """
    if build.built_by is None or not is_received(build, seen.host):
        return found
    builder = seen.here.builders[build.built_by]
    if builder.absence:
        refusal = f"build {build.name!r} comes from {build.built_by}, which {builder.absence}"
    elif reasons := misfits(expected_requirements(build, builder.platform), seen.get(HostPlatform)):
        refusal = f"build {build.name!r} from {build.built_by} cannot run here: {'; '.join(reasons)}"
    else:
        return found
    return [Difference.refusal_of(one.what, one.expected, refusal) for one in found[:1]]


def builds_to_make(rig: Rig, seen: Seen) -> list[tuple[Build, list[Difference]]]:
    """The incomplete builds that this box compiles itself; it receives the others (items/shared_releases.py)."""
    return [found for found in incomplete(rig, seen) if not is_received(found[0], seen.host)]


def build_job_name(build: Build, rig: Rig) -> str:
    """Job name of a build. It contains the release, so two builds may run at once."""
    commit, _, key = release_path(build, rig.models).rsplit("/", 1)[-1].partition("-")
    return f"build-{commit[:12]}-{key}"
