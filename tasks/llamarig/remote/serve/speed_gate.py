"""Compares the speed of a new release with that of the one that served, within the transaction of its switch.

The new server has answered then, and its start is not recorded yet: whatever interrupts the comparison (an error, a
signal, a power cut) is undone from the journal like any other switch, so one of the two releases serves afterwards.

First the new release is timed against the last timing of the old one. Where it looks slower, both are started in turn,
each timing after a start of its own, because the same flags differ by up to 5 % from start to start. Only where the
whole confidence interval is beyond the limit does the switch fail. Its refusal is kept on the box, so that the next
deploy does not time the same unit again.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from llamarig.remote.measure.paired_difference import PairedDifference, Rule, compare
from llamarig.remote.serve import bench_request, model_units
from llamarig.remote.serve.model_units import set_identity
from llamarig.remote.serve.switch_journal import Journal, read_start_record
from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.jobs import SpeedGate, SwitchJob
from llamarig.remote.shared.record import Record
from llamarig.remote.shared.unit_directives import directives, directives_sha256

LOOKS = (4, 6, 8)
"""Pairs of starts after which is decided. Each pair loads the model twice."""
REQUESTS = 3
"""Timed after each start; their median counts. One before them warms up."""
SUSPICION = 0.5
"""Fraction of the limit from which on both releases are started in turn: a timing of another day is off by as much as
5 % by itself, in either direction."""
_TRIES = 3
_WAIT_S = 5.0
"""Seconds before a server is timed again that was busy, or served another request meanwhile."""


class NotTimedError(Exception):
    """A server could not be timed; the message says why. That is no reason against its release."""


@dataclass(frozen=True)
class Speed(Record):
    """Median rates of one start, in tokens per second."""

    prompt_per_second: float
    generation_per_second: float

    def seconds(self, gate: SpeedGate) -> float:
        """Seconds of the gate's prompt and answer."""
        return gate.prompt_tokens / self.prompt_per_second + gate.generated_tokens / self.generation_per_second

    def __str__(self) -> str:
        return f"{self.prompt_per_second:.4g} and {self.generation_per_second:.3g} tokens/s"


@dataclass(frozen=True)
class Slower(Record):
    """A refusal that is kept on the box. ``of``: sha256 of the unit's directives; ``limit``: as in SpeedGate."""

    of: str
    limit: float
    message: str


def refusal_file(job: SwitchJob) -> Path:
    """Where the refusal of a unit is kept."""
    return Path(job.proof).parent / f"{job.unit}.slower"


def check_not_refused(job: SwitchJob) -> None:
    """Check that this very unit was not found to be slower before.

    :raises JobFailedError: if it was; nothing has been stopped
    """
    if job.gate is None:
        return
    path = refusal_file(job)
    try:
        found = Slower.from_json(json.loads(path.read_text()))
    except (OSError, ValueError):
        return
    if found.of == directives_sha256(job.text) and found.limit >= job.gate.limit:
        raise JobFailedError(
            f"{found.message}. Declare another llama.cpp, raise upgrade_gate(slower_than_percent=...), or delete "
            f"{path} on the box to time it again; nothing was changed"
        )


def speed_before(job: SwitchJob, journal: Journal, progress: Progress) -> Optional[Speed]:
    """The speed of the old release: of its last timing, or of one now, while it still serves; None without either."""
    gate = job.gate
    if gate is None or _old_job(job, journal) is None:
        return None
    if gate.prompt_per_second > 0 and gate.generation_per_second > 0:
        return Speed(gate.prompt_per_second, gate.generation_per_second)
    progress.step("timing the release that serves, before it is stopped")
    with contextlib.suppress(NotTimedError):
        return timed(job.unit, gate)
    return None


def compared(
    job: SwitchJob,
    journal: Journal,
    before: Optional[Speed],
    progress: Progress,
    serve: Callable[[SwitchJob], object],
) -> str:
    """Compare the release that has just answered with the one that served before.

    :param job: as it was started
    :param before: the last timing of the old release
    :param serve: installs and starts the unit of a job, and returns once it has answered
    :return: a remark for the message of the switch; empty where nothing was to be compared
    :raises JobFailedError: where it is slower; the caller lets the old release serve again
    """
    gate, old = job.gate, _old_job(job, journal)
    if gate is None or old is None:
        return ""
    if before is None:
        return "its speed was not compared: the release before it could not be timed"
    comparison = _Comparison(gate, replace(job, plan=None), old, journal, progress, serve)
    try:
        progress.step("timing the new release")
        now = timed(job.unit, gate)
        change = now.seconds(gate) / before.seconds(gate) - 1
        if change <= SUSPICION * gate.limit:
            refusal_file(job).unlink(missing_ok=True)
            return f"its speed is {now}, before {before} ({_percent(-change)})"
        found = comparison.decided()
    except NotTimedError as error:
        return f"its speed was not compared: {error}"
    if found.verdict == "faster":  # the old release is, by more than the limit
        raise _refused(job, comparison, found)
    refusal_file(job).unlink(missing_ok=True)
    return f"it looked slower than its last timing, and {comparison.words(found)}"


def timed(unit: str, gate: SpeedGate) -> Speed:
    """Time a running server.

    :raises NotTimedError: where it is busy, or does not answer
    """
    found = []
    for number in range(REQUESTS + 1):
        timing = bench_request.measure(unit, gate.prompt_tokens, gate.generated_tokens)
        for _ in range(_TRIES - 1):
            if not timing.problem and timing.alone is not False:
                break
            time.sleep(_WAIT_S)
            timing = bench_request.measure(unit, gate.prompt_tokens, gate.generated_tokens)
        if timing.problem or timing.alone is False:
            raise NotTimedError(f"{unit} {timing.problem or 'served other requests meanwhile'}")
        found += [timing] if number else []
    return Speed(
        statistics.median(timing.prompt_per_second for timing in found),
        statistics.median(timing.generation_per_second for timing in found),
    )


@dataclass
class _Comparison:
    """Starts of both releases in turn: the old one, then the new one, so that the new one serves after each pair."""

    gate: SpeedGate
    new: SwitchJob
    old: SwitchJob
    journal: Journal
    progress: Progress
    serve: Callable[[SwitchJob], object]
    pairs: tuple[tuple[Speed, Speed], ...] = ()
    """Of the old and the new release."""

    def decided(self) -> PairedDifference:
        """Start both until it is decided, or until there are enough pairs.

        The new release is the setting that the old one is compared with: "faster" is the old one's.
        """
        rule = Rule(threshold=self.gate.limit, looks=LOOKS)
        found = compare([], rule)
        while not found.is_decided and len(self.pairs) < rule.most_pairs:
            step = f"pair {len(self.pairs) + 1} of at most {rule.most_pairs}: timing the"
            before: Optional[Speed] = None
            problem = ""
            self.progress.step(f"{step} release before")
            try:
                self.serve(self.old)
                # Its file is the one that was there: a restore goes by its text, a deploy by its identity.
                set_identity(model_units.UNITS / self.old.unit, self.journal.unit_file)
                before = timed(self.old.unit, self.gate)
            except JobFailedError as failure:
                problem = f"the release before it did not start again ({failure})"
            except NotTimedError as error:
                problem = str(error)
            self.progress.step(f"{step} new release")
            self.serve(self.new)
            if before is None:
                raise NotTimedError(problem)
            self.pairs += ((before, timed(self.new.unit, self.gate)),)
            found = compare([(new.seconds(self.gate), old.seconds(self.gate)) for old, new in self.pairs], rule)
        return found

    def words(self, found: PairedDifference) -> str:
        """The comparison, with the new release as what is compared."""
        low, high = sorted((1 / (1 + found.high) - 1, 1 / (1 + found.low) - 1))
        each = f"{_percent(1 / (1 + found.faster) - 1)} ({_percent(low)} to {_percent(high)})"
        old, new = (_middle(pair[side] for pair in self.pairs) for side in (0, 1))
        return (
            f"in {found.pairs} pairs of starts its speed differed by {each}: {new} against {old} before, for "
            f"{self.gate.prompt_tokens} tokens and {self.gate.generated_tokens} more"
        )


def _refused(job: SwitchJob, comparison: _Comparison, found: PairedDifference) -> JobFailedError:
    gate = comparison.gate
    release = Path(job.check[0]).parents[1] if job.check and job.check[0].count("/") > 2 else job.commit
    message = (
        f"{job.unit} is slower with this release than with {gate.release[:12]}, by more than slower_than_percent = "
        f"{100 * gate.limit:g}: {comparison.words(found)}. The release is kept: {release}"
    )
    slower = Slower(directives_sha256(job.text), gate.limit, message)
    with contextlib.suppress(OSError):
        replace_file(refusal_file(job), json.dumps(slower.to_json()))
    return JobFailedError(message)


def _old_job(job: SwitchJob, journal: Journal) -> Optional[SwitchJob]:
    """The start to compare with: of the same unit, which served with what its record says; None if there is none."""
    served = any(one.unit == job.unit and one.served for one in journal.units)
    record = read_start_record(Path(job.proof).parent, job.unit)
    if not served or journal.text is None or record is None or not record.job.check:
        return None
    if directives(record.text) != directives(journal.text):
        return None
    return replace(record.job, text=journal.text, peers=job.peers, retired=job.retired, start=True, plan=None)


def _middle(speeds: Iterable[Speed]) -> Speed:
    each = list(speeds)
    return Speed(
        statistics.median(one.prompt_per_second for one in each),
        statistics.median(one.generation_per_second for one in each),
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:+.1f} %"
