"""Tune models: try settings with the owner's work, and propose what is faster with confidence."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyinfra.api.command import FunctionCommand, PyinfraCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from llamarig.commands.switch import is_declared_elsewhere
from llamarig.commands.tune_recording import RecordingError, recorded_text
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.declare.workload import Workload as DeclaredWorkload
from llamarig.engine.comparison_inputs import read_seen
from llamarig.engine.item import Commands, Seen
from llamarig.engine.jobs import SWITCH, await_jobs, start_job
from llamarig.engine.package_files import programs
from llamarig.engine.refuse import refuse, report, while_answered
from llamarig.engine.run import ask, conclude
from llamarig.engine.screen import say
from llamarig.facts.capacity import Capacity
from llamarig.facts.files import Sha256Sums
from llamarig.facts.gpus import Gpus
from llamarig.facts.plannable_devices import HeldByServers
from llamarig.facts.tuning_samples import TuningSamples
from llamarig.facts.units import Unit, Units
from llamarig.items.box_reservation import on_reserved_box
from llamarig.items.model_headers import read_headers
from llamarig.items.room_for_dry_runs import servers_stopped
from llamarig.items.switches import SWITCH_PROPERTIES
from llamarig.items.tune_jobs import LeftOutError, Prepared, box_of, current_job, prepared, tune_queries
from llamarig.items.wanted_unit import health_addresses
from llamarig.measure.candidates import Candidate, candidates, combined
from llamarig.measure.tuning_result import (
    conditions_of,
    parts_of,
    promising,
    report_lines,
    tuning_of,
    verdict_line,
)
from llamarig.placement.model_layers import runs_mtp
from llamarig.records.plan_file import accept_tuning, record_tuning
from llamarig.records.store import RecordError
from llamarig.records.tuning import TunedPart, Tuning
from llamarig.remote.measure.search import Finals, Screening, Search, concluded
from llamarig.remote.measure.tune_job import TakenSample, TuneCandidate, TuneJob, identity, searches
from llamarig.remote.measure.workload import PRESETS, Workload, fitted
from llamarig.remote.shared.admission import TUNING
from llamarig.remote.shared.jobs import SwitchJob
from llamarig.remote.shared.unit_directives import directives
from llamarig.render import layout
from llamarig.render.release import release_id

_NO_WORKLOAD = 'no model of this box has a workload: declare what it is tuned for, workload=d.workload(preset="agent")'
_SCREENING = 0.6
"""Fraction of the time after which the screening ends, for the finals to have the rest."""


@dataclass(frozen=True)
class TuneOptions:
    """``--data`` of tasks/tune.py. ``minutes``: of each model."""

    only: tuple[str, ...] = ()
    minutes: int = 30
    builds: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    takeover: bool = False


@dataclass
class _Work:
    """What is known of a model while it is tuned. ``chosen``: what is prepared next; ``ready``: what can be tried."""

    model: Model
    seen: Seen
    current: SwitchJob
    workload: Workload
    recorded: str = ""
    chosen: list[Candidate] = field(default_factory=list)
    ready: list[Prepared] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    """A line for each model that is done, of the whole run."""

    @property
    def job(self) -> str:
        """Name of its job on the box."""
        return _name(self.model)


class _RefusedError(Exception):
    """A model cannot be tuned; the message names what is missing, and the remedy."""


@operation(is_idempotent=False)
@while_answered
def tuned(rig: Rig, options: TuneOptions) -> Commands:
    """Time settings of the models that have a workload, and keep what is faster as proposals."""
    names = [model.name for model in rig.models]
    if not names:
        yield from refuse("this box declares no model, so there is none to tune")
        return
    others = [name for name in (*options.only, *options.accept) if name not in names]
    if unknown := [name for name in others if not is_declared_elsewhere(name)]:
        yield from refuse(f"no model is called {', '.join(unknown)}; this box has {', '.join(names)}")
        return
    if accepted := tuple(name for name in options.accept if name in names):
        yield FunctionCommand(_accept, [rig, accepted], {})
        return
    if unknown := [name for name in options.builds if name not in [build.name for build in rig.builds]]:
        declared = ", ".join(build.name for build in rig.builds)
        yield from refuse(f"no build is called {', '.join(unknown)}; this box has {declared}")
        return
    models = [model for model in rig.models if (model.name in options.only if options.only else model.workload)]
    if not models or options.accept:
        nothing = "no model of this box is to be tuned" if others else _NO_WORKLOAD
        conclude(state.inventory.get_host(host.name), nothing)
        host.noop(nothing)
        return
    if problem := _problem(models):
        yield from refuse(problem)
        return
    if not state.is_executing:
        yield FunctionCommand(lambda state, host: True, [], {})
        return
    if problem := _programs_problem():
        yield from refuse(problem)
        return
    results: list[str] = []
    for model in models:
        try:
            yield from _tune(rig, model, options, results)
        except _RefusedError as refusal:
            yield from refuse(f"{model.name} cannot be tuned: {refusal}")
            return


def _problem(models: Sequence[Model]) -> str:
    for model in models:
        if model.workload is None:
            return (
                f"{model.name} has no workload: declare what it is tuned for, "
                'workload=d.workload(preset="agent"), "chat", "batch", or recording="FILE.jsonl"'
            )
        if model.serve.task != "completion":
            return f"{model.name} is for {model.serve.task}, and only completions are tuned"
    return ""


def _programs_problem() -> str:
    found = ask(Sha256Sums, paths=list(programs()))
    if any(found.get(path) != file.sha256 for path, file in programs().items()):
        return "llamarig's programs on this box are of another version: run deploy.py, then tune again"
    return ""


def _accept(state: State, host: Host, rig: Rig, names: tuple[str, ...]) -> bool:
    lines = []
    for name in names:
        try:
            tuning = accept_tuning(rig.plan_file, host.name, name)
        except RecordError as error:
            report(host, str(error))
            return False
        if tuning is None:
            report(host, f"{name} has no proposal in {rig.plan_file}: run tasks/tune.py first")
            return False
        lines.append(verdict_line(name, tuning))
    conclude(host, f"accepted in {rig.plan_file}: commit it, then run deploy.py", *lines)
    return True


# --- one model --------------------------------------------------------------------------------------------------------


def _tune(rig: Rig, model: Model, options: TuneOptions, results: list[str]) -> Commands:
    began = time.monotonic()
    work = _work(rig, model, results)
    header = read_headers(rig, work.seen).get(model.name)
    box = box_of(work.seen, predicts=header is not None and runs_mtp(header))
    tried = candidates(rig, model, box, [name for name in options.builds if name != model.build])
    yield from _prepared(rig, work, tried, options)
    screened = yield from _timed(work, "screening", _SCREENING * options.minutes, options)
    screening: Screening = concluded([one.sample for one in screened if one.counts], _searches(work, "screening")())
    parts = parts_of([one.candidate for one in work.ready], screening)
    best = promising([one.candidate for one in work.ready], screening)
    finalists, samples, found = combined(model, best), screened, Finals()
    if finalists:
        yield from _prepared(rig, work, finalists, options)
        finalists = [one.candidate for one in work.ready]
    if finalists:
        left = max(1.0, options.minutes - (time.monotonic() - began) / 60)
        samples = yield from _timed(work, "finals", left, options)
        found = concluded([one.sample for one in samples if one.counts], _searches(work, "finals")())
    complete = screening.is_complete and (found.is_complete or not finalists)
    tuning = _result(rig, work, finalists, found, samples, parts, complete=complete)
    yield FunctionCommand(_conclude, [rig, work, tuning, found.winner], {})
    if tuning.verdict != "undecided":
        # The next tuning begins anew.
        yield StringCommand(f"rm -f {layout.JOBS}/{work.job}/*.jsonl")


def _work(rig: Rig, model: Model, results: list[str]) -> _Work:
    seen = read_seen(tune_queries, rig, fresh=True)
    assert model.workload is not None
    if seen.here.locked is None:
        raise _RefusedError(f"{rig.model_lock} lacks a model of this box: run deploy.py first, which adds it")
    try:
        current = current_job(rig, seen, model)
    except LeftOutError as error:
        raise _RefusedError(f"{error}; run deploy.py first") from None
    unit = seen.get(Units, health=health_addresses(rig)).get(current.unit, Unit())
    if directives(unit.text) != directives(current.text):
        raise _RefusedError("its unit is not as declared: run deploy.py first")
    try:
        recorded = recorded_text(model.workload)
    except RecordingError as error:
        raise _RefusedError(str(error)) from None
    workload = _workload(model.workload, current.context_per_slot, f"{layout.JOBS}/{_name(model)}/recording", recorded)
    return _Work(model, seen, current, workload, recorded, results=results)


def _name(model: Model) -> str:
    return f"{SWITCH}{model.name}{TUNING}"


def _workload(declared: DeclaredWorkload, context: int, path: str, recorded: str) -> Workload:
    if declared.preset is None:
        digest = hashlib.sha256(recorded.encode()).hexdigest()
        return Workload("recording", recording=path, sha256=digest)
    try:
        return fitted(PRESETS[declared.preset], context)
    except ValueError as error:
        raise _RefusedError(str(error)) from None


def _prepared(rig: Rig, work: _Work, chosen: Sequence[Candidate], options: TuneOptions) -> Commands:
    """Make the units of candidates; what cannot be tried is left out, with its reason."""
    work.chosen, work.ready = list(chosen), []
    yield from on_reserved_box(options.takeover, _prepare, rig, work)


def _prepare(state: State, host: Host, rig: Rig, work: _Work) -> bool:
    full = _try_all(rig, work, work.chosen)
    if full:
        running = sorted(ask(HeldByServers).vram_mib)
        say(host, f"{work.model.name}: dry runs have no room on the GPUs; {', '.join(running)} is stopped for them")
        with servers_stopped(running) as wait:
            full = _try_all(rig, work, full, wait)
    work.left_out += [f"{one.name} (no room on a GPU for a dry run)" for one in full]
    order = {one.name: place for place, one in enumerate(work.chosen)}
    work.ready.sort(key=lambda one: order[one.candidate.name])
    say(host, f"{work.model.name}: {len(work.ready)} of {len(work.chosen)} settings can be tried")
    return True


def _try_all(
    rig: Rig, work: _Work, chosen: Sequence[Candidate], before: Callable[[], None] = lambda: None
) -> list[Candidate]:
    """Prepare these; return those for whose dry runs a GPU is too full.

    :param before: called before each
    """
    full = []
    for one in chosen:
        before()
        try:
            work.ready.append(prepared(rig, work.seen, work.model, one))
        except LeftOutError as error:
            if error.is_full:
                full.append(one)
            else:
                work.left_out.append(f"{one.name} ({error.reason})")
    return full


def _timed(
    work: _Work, stage: str, minutes: float, options: TuneOptions
) -> Generator[PyinfraCommand, None, list[TakenSample]]:
    """Time what is ready on the box, and return all samples of this stage, those of interrupted runs included."""
    ready = tuple(TuneCandidate(one.candidate.name, one.job) for one in work.ready)
    directory, digest = f"{layout.JOBS}/{work.job}", identity(stage, work.current, ready, work.workload)
    job = TuneJob(
        stage=stage,
        current=work.current,
        candidates=ready,
        workload=work.workload,
        slots=work.model.serve.parallel,
        minutes=round(minutes, 1),
        samples=f"{directory}/{stage}-{digest}.jsonl",
        threshold=_threshold(work.model),
    )
    if work.workload.recording is not None:
        # On stdin, and readable by root alone: an upload lies in /tmp for a moment. The box deletes it when it is done.
        path = shlex.quote(work.workload.recording)
        yield StringCommand(f"mkdir -p -m 700 {directory} && umask 077 && cat >{path}", _stdin=work.recorded)
    yield from start_job(
        work.job,
        "measure.tune_unit",
        job,
        takeover=options.takeover,
        sandboxed=False,
        properties=SWITCH_PROPERTIES,
    )
    yield await_jobs({work.job: f"{work.model.name}, tuning"})
    found: list[TakenSample] = ask(TuningSamples, path=job.samples)
    return found


def _searches(work: _Work, stage: str) -> Callable[[], Search[Any]]:
    return searches(stage, tuple(one.candidate.name for one in work.ready), _threshold(work.model))


def _threshold(model: Model) -> float:
    return model.workload.faster_than_percent / 100 if model.workload is not None else 0.03


def _result(
    rig: Rig,
    work: _Work,
    finalists: list[Candidate],
    found: Finals,
    samples: list[TakenSample],
    parts: tuple[TunedPart, ...],
    *,
    complete: bool,
) -> Tuning:
    gpus = ask(Gpus)
    conditions = conditions_of(
        samples,
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        release=release_id(rig.build_of(work.model), rig.models),
        kernel=ask(Capacity).kernel,
        driver=gpus.module or (gpus.amd_driver if gpus.amd else ""),
        cards=[card.name for card in gpus.cards],
    )
    return tuning_of(work.model, finalists, found, samples, parts, work.left_out, conditions, complete=complete)


def _conclude(state: State, host: Host, rig: Rig, work: _Work, tuning: Tuning, winner: str | None) -> bool:
    """Store the result and say it. A winner is a proposal until its owner accepts it."""
    model = work.model
    plan = next((one.plan for one in work.ready if one.candidate.name == winner), None)
    try:
        record_tuning(rig.plan_file, host.name, model.name, tuning, plan)
    except RecordError as error:
        report(host, str(error))
        return False
    for line in report_lines(model.name, tuning):
        say(host, line)
    what = f"stored in {rig.plan_file}: commit it"
    if tuning.settings:
        what = f"proposed in {rig.plan_file}: accept it with tasks/tune.py --data accept={model.name}, then deploy"
    work.results.append(verdict_line(model.name, tuning))
    conclude(host, what, *work.results)
    return True
