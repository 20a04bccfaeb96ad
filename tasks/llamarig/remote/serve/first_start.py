"""Starts a planned model: compares the memory it takes with the plan, and steps down where GPU memory is short.

Runs on the box as part of a switch. The steps down were rendered together with the plan on the control machine; this
program only chooses one, by how much memory was missing. The start record names the step taken, and the next deploy
writes it into the plan file.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llamarig.remote.serve.model_units import log_of, run, systemctl
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.jobs import BackOff, StartPlan, StepDown, SwitchJob
from llamarig.remote.shared.server_log import ServerLog, compare, read_log, shortfall
from llamarig.remote.shared.unit_directives import directives_sha256

RUNTIME_UNITS = Path("/run/systemd/system")
FIRST_START = "llamarig-first-start.conf"
"""Name of a drop-in of one start."""
_VERBOSE_DROP_IN = """\
# For one start only: buffer sizes are logged from verbosity 4 on.
[Service]
Environment=LLAMA_ARG_LOG_VERBOSITY=4
# At that verbosity llama-server logs the end of its API key.
LogFilterPatterns=~api_keys
"""
_LOADED = "model loaded"
"""What llama-server logs after its buffers (tools/server/server.cpp of the pinned commit)."""
_JOURNAL_S = 5.0
"""Seconds for journald to have that line, which was written before the first answer."""
_LOG_FILTER_SYSTEMD = 253
"""First systemd version with LogFilterPatterns; older ones ignore it and would log the key."""


@dataclass(frozen=True)
class Answer:
    """What a started server reports. ``n_ctx``: context per slot in tokens; ``tokens_per_second``: generation."""

    build_info: str
    n_ctx: int
    tokens_per_second: float


@dataclass(frozen=True)
class Started:
    """A successful start.

    ``job``: as started, possibly after a step down; ``took_mib``: device -> MiB from the server's log, None without a
    plan; ``backed_off``: the step down taken; ``remark``: comparison with the plan for the user, may be empty.
    """

    job: SwitchJob
    answer: Answer
    took_mib: dict[str, float] | None = None
    backed_off: BackOff | None = None
    remark: str = ""


def start_as_planned(job: SwitchJob, progress: Progress, attempt: Callable[[SwitchJob], Answer]) -> Started:
    """Start the job's unit, with smaller placements where GPU memory is short.

    :param attempt: installs the unit of the given job, starts it and returns its answer
    :raises JobFailedError: when it does not start and no remaining step down would help
    """
    if job.plan is None:
        return Started(job, attempt(job))
    plan, tried, predicted = job.plan, job, job.plan.predicted_mib
    freed: dict[str, int] = {}
    reasons: list[str] = []
    while True:
        answer, failure = None, None
        try:
            with _verbose_log(tried):
                answer = attempt(tried)
        except JobFailedError as error:
            failure = error
        log = read_log(_whole_log(job.unit, has_loaded=failure is None))
        if failure is None:
            log.shortage = None  # the server works without what it could not allocate (pipeline parallelism)
        missing = shortfall(log, predicted, plan.margins_mib, plan.tolerance_mib)
        step = next_step_down(plan.rungs, freed, missing) if len(reasons) < plan.most_back_offs else None
        if answer is not None and (not missing or step is None):
            return _started(plan, tried, answer, log, missing, reasons)
        if failure is not None and not missing:
            raise failure
        reasons.append(_reason(log, missing))
        if step is None:
            raise _no_step_left(failure, reasons)
        progress.step(f"{reasons[-1]}: {step.what}")
        backed_off = BackOff(
            of=hashlib.sha256(job.text.encode()).hexdigest(),
            what=step.what,
            placement=step.placement,
            reason="; then ".join(reasons),
            missing_mib={name: round(mib) for name, mib in missing.items()},
            of_directives=directives_sha256(job.text),
        )
        # Without the plan: a later rollback to this start must not step down again.
        tried = replace(job, text=step.text, check=step.check, plan=None, backed_off=backed_off)
        predicted, freed = None, step.frees_mib


def next_step_down(steps: Iterable[StepDown], freed: dict[str, int], missing: dict[str, float]) -> StepDown | None:
    """Choose the smallest step that frees the missing memory in addition to what was freed before.

    Where any of several devices may be the short one (the log named none), a step is enough that frees memory on one
    of them.

    :param freed: device -> MiB that the last step freed
    :param missing: device -> MiB
    """
    if not missing:
        return None
    device_unknown = len(missing) > 1 and all(mib <= 1 for mib in missing.values())
    for step in steps:
        enough = [step.frees_mib.get(name, 0) - freed.get(name, 0) >= mib for name, mib in missing.items()]
        no_less = all(step.frees_mib.get(name, 0) >= mib for name, mib in freed.items())
        if no_less and (any(enough) if device_unknown else all(enough)):
            return step
    return None


def _started(
    plan: StartPlan,
    tried: SwitchJob,
    answer: Answer,
    log: ServerLog,
    missing: dict[str, float],
    reasons: list[str],
) -> Started:
    took = {name: round(memory.total, 2) for name, memory in log.memory.items()}
    # A step down is started without its plan.
    if tried.plan is None and tried.backed_off is not None:
        remark = f"GPU memory was short ({'; then '.join(reasons)}), so it serves with {tried.backed_off.what}"
        return Started(tried, answer, took, tried.backed_off, remark)
    return Started(tried, answer, took, remark=_comparison(log, plan, missing))


def _comparison(log: ServerLog, plan: StartPlan, missing: dict[str, float]) -> str:
    """Describe the memory that the server took, compared with the plan."""
    devices = compare(log, plan.predicted_mib or {}, plan.tolerance_mib)
    if not devices:
        return "its memory was not compared with the plan, because its log does not show it"
    shown = "; ".join(str(device) for device in devices)
    if missing:
        return f"it took more than predicted, and no step down would free enough: {shown}"
    if any(device.differs for device in devices):
        return f"it did not take what was predicted, but the margin is still free: {shown}"
    return f"it took what was predicted, within {plan.tolerance_mib} MiB per GPU: {shown}"


def _reason(log: ServerLog, missing: dict[str, float]) -> str:
    amounts = ", ".join(
        f"{name} lacks {mib:.0f} MiB" if mib > 1 else f"{name} lacks an unknown amount" for name, mib in missing.items()
    )
    if log.shortage is not None:
        # The log line without its time and level.
        return f"{amounts}: {re.sub(r'^[0-9.]+ [A-Z] ', '', log.shortage.message)}"
    return f"{amounts}: it took more than predicted"


def _no_step_left(failure: JobFailedError | None, reasons: list[str]) -> JobFailedError:
    steps = len(reasons) - 1
    after = f"after {steps} step{'s' * (steps > 1)} down" if steps else "and there is no step down"
    return JobFailedError(
        f"{failure}; GPU memory is short ({'; then '.join(reasons)}) {after}", failure.lines if failure else []
    )


# --- the log of one start -------------------------------------------------------------------------------------------


@contextmanager
def _verbose_log(job: SwitchJob) -> Iterator[None]:
    """Make the next start of the unit log its buffer sizes."""
    directory = RUNTIME_UNITS / f"{job.unit}.d"
    if job.api_key_file and _systemd_version() < _LOG_FILTER_SYSTEMD:
        # The journal must not hold part of a key. Failed allocations are logged at any verbosity.
        yield
        return
    drop_in = directory / FIRST_START
    try:
        directory.mkdir(parents=True, exist_ok=True)
        drop_in.write_text(_VERBOSE_DROP_IN)
        # Installing the unit reloads systemd, which reads this file too.
        yield
    finally:
        remove_verbose_log(job.unit)
        systemctl("daemon-reload")


def remove_verbose_log(unit: str) -> None:
    """Undo what one start was logged with; of a switch that was killed, it would stay until the next boot."""
    directory = RUNTIME_UNITS / f"{unit}.d"
    (directory / FIRST_START).unlink(missing_ok=True)
    if directory.exists() and not any(directory.iterdir()):
        directory.rmdir()


def _whole_log(unit: str, *, has_loaded: bool) -> list[str]:
    """Read everything that the unit's last start has logged.

    :param has_loaded: whether it says that the model was loaded. On a busy box, journald may still have to read that:
        `--sync` does not wait for what it has not received
    """
    deadline = time.monotonic() + (_JOURNAL_S if has_loaded else 0)
    while True:
        lines = log_of(unit)
        if any(_LOADED in line for line in lines) or time.monotonic() >= deadline:
            return lines
        time.sleep(0.2)


def _systemd_version() -> int:
    version = re.search(r"systemd (\d+)", run(["systemctl", "--version"]))
    return int(version[1]) if version else 0
