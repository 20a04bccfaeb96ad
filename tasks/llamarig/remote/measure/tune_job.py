"""What the control machine asks of tune_unit.py, and what that leaves on the box."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamarig.remote.measure.conditions import Conditions
from llamarig.remote.measure.paired_difference import Rule
from llamarig.remote.measure.search import CURRENT, Sample, Search, finals, screen
from llamarig.remote.measure.workload import Workload
from llamarig.remote.shared.jobs import SwitchJob
from llamarig.remote.shared.record import Record
from llamarig.remote.shared.unit_directives import directives_sha256


@dataclass(frozen=True)
class TuneCandidate(Record):
    """A setting to be tried. ``name``: identifies it in the samples; ``job``: how its unit is started."""

    name: str
    job: SwitchJob


@dataclass(frozen=True)
class TuneJob(Record):
    """Work of measure/tune_unit.py: time candidates against the current unit, then serve what served before.

    ``stage``: ``screening`` or ``finals``; ``current``: the unit as it is declared; ``workload``: what is replayed;
    ``slots``: of the server; ``minutes``: after which it ends; ``samples``: file of the samples, one line of JSON
    each, from which an interrupted run goes on; ``threshold``: fraction of speed that a winner has to gain.
    """

    stage: str
    current: SwitchJob
    candidates: tuple[TuneCandidate, ...]
    workload: Workload
    slots: int
    minutes: float
    samples: str
    threshold: float = 0.03


@dataclass(frozen=True)
class TakenSample(Record):
    """A line of the samples' file. ``counts``: False for one that was repeated because it was disturbed."""

    sample: Sample
    conditions: Conditions
    counts: bool = True


def searches(stage: str, names: tuple[str, ...], threshold: float) -> Callable[[], Search[Any]]:
    """Makes fresh searches of a stage: a screening, or finals."""
    if stage == "finals":
        return lambda: finals(names, Rule(threshold=threshold, comparisons=len(names)))
    return lambda: screen(names)


def identity(stage: str, current: SwitchJob, candidates: tuple[TuneCandidate, ...], workload: Workload) -> str:
    """Digest of everything that a sample depends on: runs with the same one share their samples."""
    units = [[CURRENT, directives_sha256(current.text), current.inputs]]
    units += [[one.name, directives_sha256(one.job.text), one.job.inputs] for one in candidates]
    told = {key: value for key, value in workload.to_json().items() if key != "recording"}
    return hashlib.sha256(json.dumps([stage, units, told], sort_keys=True).encode()).hexdigest()[:16]


def read_samples(path: Path) -> list[TakenSample]:
    """Read the samples of earlier runs, without a last line that was cut off; none where there is no file."""
    try:
        lines = path.read_text().split("\n")
    except OSError:
        return []
    return parse_samples(lines)


def parse_samples(lines: list[str]) -> list[TakenSample]:
    """The samples of these lines, up to the first that cannot be read."""
    found = []
    for line in lines:
        if not line.strip():
            continue
        try:
            found.append(TakenSample.from_json(json.loads(line)))
        except (ValueError, RecursionError):  # RecordError is a ValueError
            break
    return found
