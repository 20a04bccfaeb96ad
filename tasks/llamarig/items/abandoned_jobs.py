"""Builds and downloads that go on although nothing declared needs them any more: of a run that was interrupted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llamarig.declare.rig import Rig
from llamarig.engine.control_machine import ControlMachine
from llamarig.engine.item import Difference, Item, Query, Seen, Severity, query
from llamarig.facts.jobs import RunningJobs
from llamarig.facts.model_store import ModelStore
from llamarig.items.download_job import missing_files
from llamarig.items.model_files import FETCH
from llamarig.items.releases import build_job_name
from llamarig.remote.shared.admission import job_words
from llamarig.render import layout


class NoAbandonedJobs(Item):
    """No build or download runs that nothing declared needs; one is named, and left alone."""

    name = "Running jobs"
    check = "llama.jobs"
    severity = Severity.NOTE

    def queries(self, rig: Rig, here: ControlMachine) -> Iterable[Query[Any]]:
        """The running jobs, and the model files, which say whether a download is needed."""
        yield query(RunningJobs)
        if here.locked is not None:
            yield query(ModelStore)

    def differences(self, rig: Rig, seen: Seen) -> list[Difference]:
        """One for each such job. A download of other files than those that are missing is in the way, and refused."""
        wanted = {build_job_name(build, rig) for build in rig.builds}
        found = []
        for name, job in seen.get(RunningJobs).items():
            is_build = name.startswith("build-") and name not in wanted
            if is_build or (name == FETCH and _has_all_files(seen)):
                what = f"{job_words(name)} runs{job.by_and_since}, and nothing declared needs it"
                remedy = f"let it end, or on the box: systemctl stop '{layout.job_unit(name)}*'"
                found.append(
                    Difference(what, "no such job", "beside this run", remedy, by_deploy=False, stops_deploy=False)
                )
        return found


def _has_all_files(seen: Seen) -> bool:
    return seen.here.locked is not None and not missing_files(seen.here.locked, seen.get(ModelStore).files)
