"""The ggml backend that simulates GPUs for planning, compiled on the box for each build that plans with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llamarig.declare.build import Build
from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.engine.jobs import await_jobs, is_running, start_job
from llamarig.engine.run import ask
from llamarig.facts.jobs import Jobs
from llamarig.facts.simulated_gpus import IntactSimulatedGpus
from llamarig.items.releases import WholeReleases, incomplete, release_queries
from llamarig.remote.shared.jobs import SimulationJob
from llamarig.render import layout
from llamarig.render.release import build_job

_FILES = Path(__file__).parents[1] / "remote/build"
_SOURCES = ("simulated_gpu.cpp", "cuda_backend_parts.py", "cpp_definitions.py", "build_simulated_gpu.py")


def source_digest() -> str:
    """sha256 over all of our files that the library is made from."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((_FILES / name).read_bytes())
    return digest.hexdigest()


def simulation_directory(build: Build) -> str:
    """Directory of a build's simulation, named by llama.cpp's commit and our source, which determine its content."""
    return f"{layout.SIMULATED}/{build.source.commit}-{source_digest()}"


def simulation_library(build: Build) -> str:
    """Path of the library on the box: GGML_BACKEND_PATH for dry runs of this build's release."""
    return f"{simulation_directory(build)}/libggml-simulated.so"


def simulation_directories(rig: Rig) -> list[str]:
    """The directories of all builds that a model runs on."""
    return sorted({simulation_directory(build) for build in _planned_with(rig)})


def _planned_with(rig: Rig) -> list[Build]:
    names = {model.build for model in rig.models}
    return [build for build in rig.builds if build.name in names]


def _job(build: Build, rig: Rig) -> SimulationJob:
    release = build_job(build, rig.models)
    return SimulationJob(
        directory=simulation_directory(build),
        work=release.work,
        cache=release.cache,
        source=release.source,
        release=release.release,
        pip=release.pip,
    )


def compile_simulations(rig: Rig, builds: Sequence[Build], *, takeover: bool) -> Commands:
    """Compile the simulations of these builds, whose releases are on the box, and wait."""
    jobs = {f"simulate-{build.source.commit[:12]}": (build, _job(build, rig)) for build in builds}
    running = ask(Jobs, names=sorted(jobs))
    for name, (_, job) in jobs.items():
        if not is_running(running.get(name), job):
            paths = f"ReadWritePaths={layout.WORK} {layout.CACHE} {layout.SIMULATED}"
            yield from start_job(name, "build.build_simulated_gpu", job, takeover=takeover, properties=[paths])
    yield await_jobs({name: f"simulated GPUs for build {build.name}" for name, (build, _) in jobs.items()})


class SimulatedGpus(Item):
    """If rig.simulated_gpus is declared, the simulation is compiled for each build that a model runs on."""

    name = "Simulated GPUs"
    needs = (WholeReleases,)

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """Nothing if no GPU is simulated."""
        if rig.simulated_gpus:
            yield query(IntactSimulatedGpus, directories=simulation_directories(rig))
            yield from release_queries(rig)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each simulation that is not compiled yet; a refusal where its build has no complete release."""
        missing = self._missing(rig, seen)
        without_release = {build.name for build, _ in incomplete(rig, seen)} if missing else set()
        found = []
        for build in missing:
            what, expected = f"simulated GPUs for build {build.name}", "compiled"
            if build.name in without_release:
                refusal = f"build {build.name!r} has no complete release on this box to plan with: run deploy.py first"
                found.append(Difference.refusal_of(what, expected, refusal))
            else:
                found.append(Difference(what, expected, "not compiled yet"))
        return found

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Compile them on the box, and wait."""
        yield from compile_simulations(rig, self._missing(rig, seen), takeover=seen.here.takeover)

    @staticmethod
    def _missing(rig: Rig, seen: Seen) -> list[Build]:
        """The builds whose simulation is missing. Builds of one commit share one, which depends on the source alone."""
        if not rig.simulated_gpus:
            return []
        whole = seen.get(IntactSimulatedGpus, directories=simulation_directories(rig))
        builds = {simulation_directory(build): build for build in _planned_with(rig)}
        return [build for directory, build in builds.items() if directory not in whole]
