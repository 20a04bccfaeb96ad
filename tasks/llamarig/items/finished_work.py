"""Wait for the builds and downloads that other items have started in parallel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llamarig.declare.rig import Rig
from llamarig.engine.comparison_inputs import read_seen
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Commands, Difference, Item, Query, Seen, query
from llamarig.engine.jobs import await_jobs
from llamarig.engine.refuse import refuse
from llamarig.facts.model_store import ModelStore
from llamarig.items.download_job import missing_files
from llamarig.items.model_files import FETCH, FetchedModels
from llamarig.items.releases import WholeReleases, build_job_name, builds_to_make, release_queries


class FinishedWork(Item):
    """Every build and download has succeeded: releases are complete, model files are as locked."""

    name = "Builds and downloads"
    needs = (WholeReleases, FetchedModels)
    awaits_work = True
    audited = False

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The same as the items that started the work."""
        yield from release_queries(rig)
        if here.locked is not None:
            yield query(ModelStore)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """The differences of releases and model files that are left."""
        found = [difference for _, differences in builds_to_make(rig, seen) for difference in differences]
        if seen.here.locked is not None:
            found += [one for _, _, one in missing_files(seen.here.locked, seen.get(ModelStore).files)]
        return found

    def fix(self, rig: Rig, seen: Seen, differences: list[Difference]) -> Commands:
        """Wait for the jobs, then compare again."""
        labels = {build_job_name(build, rig): f"build {build.name}" for build, _ in builds_to_make(rig, seen)}
        if seen.here.locked is not None and missing_files(seen.here.locked, seen.get(ModelStore).files):
            labels[FETCH] = "models"
        yield await_jobs(labels)
        if still := self.differences(rig, read_seen(self.queries, rig, fresh=True)):
            yield from refuse(
                "the builds and downloads have ended, but files are still missing: run deploy.py again", map(str, still)
            )
