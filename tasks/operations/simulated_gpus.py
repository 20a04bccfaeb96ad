"""GPUs that are not there: the backend that simulates them, compiled on the box for each release that plans with it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from pyinfra.api.operation import operation
from pyinfra.context import host

from tasks.facts.jobs import Jobs
from tasks.facts.releases import Release, Releases
from tasks.facts.simulated_gpus import WholeSimulations
from tasks.operations import Commands
from tasks.operations.jobs import await_jobs, is_running, start_job
from tasks.operations.once import read_once
from tasks.operations.refuse import refuse
from tasks.planning import layout
from tasks.planning.release import build_job, release_differences, release_path
from tasks.spec.build import Build
from tasks.spec.rig import Rig

_FILES = Path(__file__).parents[1] / "files"
_SOURCES = ("simulated_gpu.cpp", "cuda_backend_parts.py", "cpp_definitions.py", "build_simulated_gpu.py")


@cache
def source_digest() -> str:
    """sha256 over everything of ours that shapes the library."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((_FILES / name).read_bytes())
    return digest.hexdigest()


def simulation_directory(build: Build) -> str:
    """Where a build's simulation lies, named by llama.cpp's commit and our own source: one path is one content."""
    return f"{layout.SIMULATED}/{build.source.commit}-{source_digest()}"


def simulation_library(build: Build) -> str:
    """Path on the box of what GGML_BACKEND_PATH names, for dry runs of this build's release."""
    return f"{simulation_directory(build)}/libggml-simulated.so"


def simulation_directories(rig: Rig) -> list[str]:
    """Of all builds that a model runs on."""
    return sorted({simulation_directory(build) for build in _planned_with(rig)})


def _planned_with(rig: Rig) -> list[Build]:
    names = {model.build for model in rig.models}
    return [build for build in rig.builds if build.name in names]


def _job(build: Build, rig: Rig) -> dict[str, Any]:
    release = build_job(build, rig.models)
    return {
        "directory": simulation_directory(build),
        **{key: release[key] for key in ("work", "cache", "source", "release")},
    }


@operation()
def built(rig: Rig) -> Commands:
    """Each build that a model runs on can show llama.cpp GPUs the box does not have."""
    builds = _planned_with(rig)
    whole = read_once(WholeSimulations, directories=simulation_directories(rig))
    # Builds of one commit share a simulation: it is of the source, not of how the release was compiled.
    missing = {simulation_directory(build): build for build in builds if simulation_directory(build) not in whole}
    if not missing:
        host.noop("the GPUs to plan for can be simulated")
        return
    releases = host.get_fact(Releases, directories=[release_path(build, rig.models) for build in missing.values()])
    for build in missing.values():
        release = releases.get(release_path(build, rig.models), Release())
        if release_differences(release_path(build, rig.models), release.manifest, release.files):
            yield from refuse(f"build {build.name!r} has no whole release here to plan with: run deploy.py first")
            return
    jobs = {f"simulate-{build.source.commit[:12]}": (build, _job(build, rig)) for build in missing.values()}
    running = host.get_fact(Jobs, names=sorted(jobs))
    for name, (_, job) in jobs.items():
        if not is_running(running.get(name), job):
            paths = f"ReadWritePaths={layout.WORK} {layout.CACHE} {layout.SIMULATED}"
            yield from start_job(name, "build_simulated_gpu", job, properties=[paths])
    yield await_jobs({name: f"simulated GPUs for build {build.name}" for name, (build, _) in jobs.items()})
