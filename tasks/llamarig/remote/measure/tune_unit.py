"""Times settings of a model on the box: serves each by its own unit, replays the workload, returns to what served.

Runs as a transient systemd unit under the lock and with the journal of a switch (serve/switch_unit.py): what served
before serves again when it ends, by an error, by SIGTERM, after SIGKILL and after a power cut. The unit file of the
model is replaced for each sample, so a sample is taken in the unit's own sandbox, through the server's own API. Samples
are kept on the disk, from which the next run goes on.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

from llamarig.remote.measure.conditions import Conditions, disturbances, watched
from llamarig.remote.measure.replay import Replayed, TooSlowError, replay
from llamarig.remote.measure.search import CURRENT, OutOfTimeError, Sample, Wanted, concluded, usable
from llamarig.remote.measure.tune_job import TakenSample, TuneJob, read_samples, searches
from llamarig.remote.serve.answer_checks import check_answers
from llamarig.remote.serve.model_units import (
    has_ended,
    install_unit,
    last_lines,
    run,
    state_of,
    wait_until_healthy,
)
from llamarig.remote.serve.port_in_use import await_left_connections, could_not_bind
from llamarig.remote.serve.roll_back import roll_back, roll_back_now
from llamarig.remote.serve.switch_checks import (
    api_key,
    check_certificate,
    check_flags,
    check_gpu_use,
    check_key_file,
    check_port,
)
from llamarig.remote.serve.switch_journal import (
    Journal,
    read_start_record,
    unfinished_switch,
    what_serves,
    write_journal,
)
from llamarig.remote.serve.switch_unit import describe, exclusive_switch, start
from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.job_status import JobFailedError, Progress, StoppedError, run_job
from llamarig.remote.shared.jobs import SwitchJob
from llamarig.remote.shared.server_client import NoAnswerError, Server

_TRIES = 3
"""Times that a sample is taken until it is not disturbed."""
_LOOK_S = 3.0
"""Seconds for which the box is looked at before the first sample."""
_PAUSE_S = 10.0
"""Seconds before a disturbed sample is repeated."""


def tune(job: TuneJob, progress: Progress) -> str:
    """Take the samples of a stage, and restore what served. Return the final message."""
    directory = Path(job.current.proof).parent
    try:
        with exclusive_switch(directory, progress):
            return _tune(job, directory, progress)
    finally:
        if job.workload.recording is not None:  # it is private, and the next run sends it again
            Path(job.workload.recording).unlink(missing_ok=True)


def _tune(job: TuneJob, directory: Path, progress: Progress) -> str:
    left = unfinished_switch(directory)
    if left is not None:
        roll_back_now(directory, left)
    progress.step("checking the current unit")
    check_key_file(job.current)
    check_certificate(job.current)
    check_flags(job.current.check)
    tuning = _Tuning(job, progress)
    if (message := tuning.resumed()) is not None:
        return message
    journal = what_serves(job.current, left)
    check_port(job.current.port, [job.current.unit, *job.current.peers], "; nothing was changed")
    try:
        write_journal(directory, journal)
        try:
            taken = tuning.perform()
        except StoppedError:
            raise
        except BaseException as failure:
            lines = failure.lines if isinstance(failure, JobFailedError) else []
            restored = roll_back(directory, journal, progress, began=tuning.first_start)
            raise JobFailedError(f"{describe(failure)}; {restored}", lines) from None
        restored = roll_back(directory, journal, progress, began=tuning.first_start)
    except StoppedError as stopped:
        # Also during the restore above.
        raise StoppedError(f"{stopped}; {roll_back_now(directory, journal)}") from None
    return f"{taken}; {restored}{_proof(directory, journal, progress)}"


def _proof(directory: Path, journal: Journal, progress: Progress) -> str:
    """Check the answers of what serves again, as when it was started.

    :raises JobFailedError: where it does not answer as it did
    """
    for unit in journal.served:
        record = read_start_record(directory, unit)
        if record is not None and record.job.check:
            try:
                check_answers(record.job, state_of(unit)["MainPID"], progress)
            except OSError as error:
                raise JobFailedError(f"{unit} serves again, and does not answer ({error})", last_lines(unit)) from None
    return ", and answers" if journal.served else ""


@dataclass
class _Tuning:
    """The samples of one stage."""

    job: TuneJob
    progress: Progress
    began: float = field(default_factory=time.monotonic)
    run_id: str = field(default_factory=lambda: os.urandom(4).hex())
    taken: list[TakenSample] = field(default_factory=list)
    checked: set[str] = field(default_factory=set)
    usual: list[Conditions] = field(default_factory=list)
    """Conditions before the first sample, while nothing of ours computes."""
    first_start: Optional[float] = None
    """Monotonic time of the first start of a unit; None before it."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.job.candidates)

    @property
    def counted(self) -> list[Sample]:
        return [one.sample for one in self.taken if one.counts]

    def resumed(self) -> Optional[str]:
        """Begin with the samples of earlier runs; return the final message where they are all.

        Those of a round that was interrupted are taken again.
        """
        fresh = searches(self.job.stage, self.names, self.job.threshold)
        path = Path(self.job.samples)
        earlier = read_samples(path)
        whole, kept = usable([one.sample for one in earlier if one.counts], fresh()), list[TakenSample]()
        for one in earlier:
            if one.counts and sum(each.counts for each in kept) == whole:
                break
            kept.append(one)
        self.taken = kept
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, "".join(f"{json.dumps(one.to_json())}\n" for one in kept), mode=0o600)
        found = concluded(self.counted, fresh())
        return self._message(found) if found.is_complete else None

    def perform(self) -> str:
        """Take the samples that are missing.

        :raises JobFailedError: where the current unit cannot be timed
        """
        search = searches(self.job.stage, self.names, self.job.threshold)()
        with watched("", str(os.getpid())) as watch:
            time.sleep(_LOOK_S)
            self.usual = [watch.conditions()]
        try:
            wanted = next(search)
            for sample in self.counted:
                wanted = search.send(sample)
            while True:
                if time.monotonic() + self._cost_s() > self.began + 60 * self.job.minutes:
                    search.throw(OutOfTimeError())
                wanted = search.send(self._sample(wanted))
        except StopIteration as end:
            if problem := getattr(end.value, "problem", ""):
                raise JobFailedError(f"the current unit could not be timed: {problem}") from None
            return self._message(end.value)

    def _message(self, found: Any) -> str:
        incomplete = "" if found.is_complete else ", not all: the time is over"
        return f"{self.job.stage}: {len(self.counted)} samples{incomplete}"

    def _cost_s(self) -> float:
        """Seconds that the next sample will take, by those before it."""
        known = [one.sample for one in self.taken if one.sample.replayed is not None]
        if not known:
            return 0.0
        seconds = [one.replayed.seconds + one.start_s for one in known if one.replayed is not None]
        return sum(seconds) / len(seconds)

    def _sample(self, wanted: Wanted) -> Sample:
        found: list[str] = []
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_S)
            self._show(wanted)
            sample, conditions = self._take(wanted)
            usual = [*self.usual, *(one.conditions for one in self.taken)]
            same = [one.conditions for one in self.taken if one.sample.candidate == wanted.candidate and one.counts]
            disturbed = disturbances(conditions, usual, same) if sample.replayed is not None else ()
            found += disturbed
            last = not disturbed or attempt == _TRIES - 1
            sample = replace(sample, disturbed=tuple(found) if disturbed else ())
            self._keep(TakenSample(sample, conditions, counts=last))
            if last:
                return sample
        raise AssertionError

    def _show(self, wanted: Wanted) -> None:
        total, spent = round(60 * self.job.minutes), round(time.monotonic() - self.began)
        number = 1 + len(self.counted)
        left = f"at most {max(1, round((total - spent) / 60))} min left"
        self.progress.step(f"{self.job.stage}, sample {number}: {wanted.candidate}; {left}")

    def _keep(self, taken: TakenSample) -> None:
        self.taken.append(taken)
        with Path(self.job.samples).open("a") as file:
            file.write(f"{json.dumps(taken.to_json())}\n")
            file.flush()
            os.fsync(file.fileno())

    def _take(self, wanted: Wanted) -> tuple[Sample, Conditions]:
        job = next((one.job for one in self.job.candidates if one.name == wanted.candidate), self.job.current)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        sample = Sample(wanted.candidate, run=self.run_id, at=at)
        try:
            start_s = self._serve(job)
        except JobFailedError as failure:
            if wanted.candidate == CURRENT:
                raise
            return replace(sample, problem=str(failure)), Conditions()
        state = state_of(job.unit)
        group = run(["systemctl", "show", job.unit, "-p", "ControlGroup", "--value"]).strip()
        server = Server.of_process(state["MainPID"], api_key(job))
        replayed, cut, problem = None, False, ""
        with watched(group, state["MainPID"]) as watch:
            try:
                replayed = replay(server, self.job.workload, self.job.slots, wanted.limit_s)
            except TooSlowError:
                cut, replayed = True, Replayed(seconds=wanted.limit_s or 0.0, first_token_s=0.0)
            except (NoAnswerError, ValueError) as error:
                problem = f"did not complete the workload ({error})"
            conditions = watch.conditions()
        if problem and wanted.candidate == CURRENT:
            raise JobFailedError(f"{job.unit} {problem}", last_lines(job.unit))
        return replace(sample, replayed=replayed, cut=cut, problem=problem, start_s=round(start_s, 1)), conditions

    def _serve(self, job: SwitchJob) -> float:
        """Start a setting's unit and wait until it is ready; return the seconds that took.

        :raises JobFailedError: where it does not start
        """
        began = time.monotonic()
        if job.text not in self.checked:
            check_flags(job.check)
            self.checked.add(job.text)
        install_unit(job.unit, job.text)
        self.first_start = self.first_start or time.monotonic()
        start(job)
        ready = wait_until_healthy(job.unit, job.load_timeout_s, _WhileLoading(self.progress))
        if not ready and could_not_bind(last_lines(job.unit)):
            await_left_connections(job.port, self.progress)
            start(job)
            ready = wait_until_healthy(job.unit, job.load_timeout_s, _WhileLoading(self.progress))
        if not ready:
            ended = "ended while loading" if has_ended(state_of(job.unit)) else "was not ready in time"
            raise JobFailedError(f"{job.unit} {ended}", last_lines(job.unit))
        check_port(job.port, [job.unit])
        check_gpu_use(job)
        return time.monotonic() - began


class _WhileLoading(Progress):
    """Keeps the step as it is while a server loads, because it names the sample."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self.must_write = shown.must_write

    def step(self, step: str, *, done: int = 0, total: int = 0, unit: str = "") -> None:
        """Leave the step; the status file is as fresh as the program."""
        self._shown.write()


if __name__ == "__main__":
    run_job(TuneJob, tune, unwinds=True)
