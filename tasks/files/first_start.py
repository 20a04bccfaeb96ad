"""A planned model's first start: its own log against the plan, and a step down where GPU memory was lacking.

Runs on the box as part of a switch. The steps were rendered with the plan, on the machine that deploys; here one is
only chosen, by what was missing. Which one was taken goes into the proof, and from there into the plan file.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.files.job_status import JobFailedError, Progress
from tasks.planning.plans.server_log import ServerLog, against, missing, read_log

_LOUD = """\
# For one start alone: buffer sizes are logged from verbosity 4 on.
[Service]
Environment=LLAMA_ARG_LOG_VERBOSITY=4
# At that verbosity llama-server logs the end of its API key.
LogFilterPatterns=~api_keys
"""
_FILTERS_SINCE = 253
"""The systemd that knows LogFilterPatterns; an older one would ignore it, and log."""


def started_as_planned(
    job: dict[str, Any], progress: Progress, attempt: Callable[[dict[str, Any]], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The job as it ended up, the answer that proves it, and what the owner is told of it.

    :param attempt: puts the job's unit in place, starts it and returns its answer
    :raises JobFailedError: when it does not start, and no step down is left that would help
    """
    plan = job.get("plan")
    if not plan:
        return job, attempt(job), ""
    tried, predicted = job, plan["predicted_mib"]
    taken: dict[str, int] = {}
    reasons: list[str] = []
    while True:
        answer, failure = None, None
        try:
            with _loud(tried):
                answer = attempt(tried)
        except JobFailedError as error:
            failure = error
        log = read_log(_log_of(job["unit"]))
        if failure is None:
            log.shortage = None  # what was refused it did without (pipeline parallelism, for one)
        lacks = missing(log, predicted, plan["margins_mib"], plan["tolerance_mib"])
        rung = next_rung(plan["rungs"], taken, lacks) if len(reasons) < plan["most_back_offs"] else None
        if answer is not None and (not lacks or rung is None):
            return _ended(job, tried, answer, log, predicted, reasons, lacks)
        if failure is not None and not lacks:
            raise failure
        reasons.append(_reason(log, lacks))
        if rung is None:
            many = (
                f"after {len(reasons) - 1} step{'s' * (len(reasons) > 2)} down"
                if len(reasons) > 1
                else "and there is no step down"
            )
            raise JobFailedError(
                f"{failure}; GPU memory is lacking ({'; then '.join(reasons)}) {many}", failure.lines if failure else []
            )
        progress.step(f"{reasons[-1]}: {rung['what']}")
        off = {
            "of": hashlib.sha256(job["text"].encode()).hexdigest(),
            "what": rung["what"],
            "placement": rung["placement"],
            "reason": "; then ".join(reasons),
            "missing_mib": {name: round(mib) for name, mib in lacks.items()},
        }
        # What is proved is this step; a rollback to it later starts it as it is.
        tried = {**job, "text": rung["text"], "check": rung["check"], "plan": None, "backed_off": off}
        predicted, taken = None, rung["frees_mib"]


def next_rung(rungs: list[dict[str, Any]], taken: dict[str, int], lacks: dict[str, float]) -> dict[str, Any] | None:
    """The smallest step that frees what is missing beyond what was freed already.

    Where several devices may be the short one (the message named none), a step that frees something on any of them.
    """
    if not lacks:
        return None
    guessed = len(lacks) > 1 and all(mib <= 1 for mib in lacks.values())
    for rung in rungs:
        frees = [rung["frees_mib"].get(name, 0) - taken.get(name, 0) - mib >= 0 for name, mib in lacks.items()]
        no_less = all(rung["frees_mib"].get(name, 0) >= mib for name, mib in taken.items())
        if no_less and (any(frees) if guessed else all(frees)):
            return rung
    return None


def _reason(log: ServerLog, lacks: dict[str, float]) -> str:
    amounts = ", ".join(
        f"{name} lacks {mib:.0f} MiB" if mib > 1 else f"{name} lacks some" for name, mib in lacks.items()
    )
    if log.shortage is not None:
        # The message without the time and level in front of it.
        return f"{amounts}: {re.sub(r'^[0-9.]+ [A-Z] ', '', log.shortage.said)}"
    return f"{amounts}: it took more than predicted"


def _ended(
    job: dict[str, Any],
    tried: dict[str, Any],
    answer: dict[str, Any],
    log: ServerLog,
    predicted: dict[str, int] | None,
    reasons: list[str],
    lacks: dict[str, float],
) -> tuple[dict[str, Any], dict[str, Any], str]:
    took = {name: round(memory.total, 2) for name, memory in log.memory.items()}
    answer = {**answer, "took_mib": took}
    if tried is not job:
        said = f"GPU memory was lacking ({'; then '.join(reasons)}), so it serves with {tried['backed_off']['what']}"
        return tried, {**answer, "backed_off": tried["backed_off"]}, said
    tolerance = job["plan"]["tolerance_mib"]
    found = against(log, predicted or {}, tolerance)
    if not found:
        return job, answer, "its log does not say what it took, so the plan's MiB were not compared"
    shown = "; ".join(str(device) for device in found)
    if lacks:
        return job, answer, f"it took more than predicted, and no step down would free it: {shown}"
    if any(device.differs for device in found):
        return job, answer, f"it took other than predicted, but its margin holds: {shown}"
    return job, answer, f"it took what was predicted, to {tolerance} MiB a card: {shown}"


# --- the log of one start -------------------------------------------------------------------------------------------


@contextmanager
def _loud(job: dict[str, Any]) -> Iterator[None]:
    """The next start of the unit logs its buffer sizes; the one after it does not."""
    directory = Path("/run/systemd/system") / f"{job['unit']}.d"
    if job["api_key_file"] and _systemd() < _FILTERS_SINCE:
        # A part of a key is no price for numbers; that memory ran out is logged anyway.
        yield
        return
    drop_in = directory / "llamarig-first-start.conf"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        drop_in.write_text(_LOUD)
        # Putting the unit in place makes systemd read this too.
        yield
    finally:
        drop_in.unlink(missing_ok=True)
        if directory.exists() and not any(directory.iterdir()):
            directory.rmdir()
        _said("systemctl", "daemon-reload")


def _log_of(unit: str) -> list[str]:
    """All that the unit's last start has logged."""
    _said("journalctl", "--sync")
    invocation = _said("systemctl", "show", unit, "-p", "InvocationID", "--value").strip()
    return _said(
        "journalctl", f"_SYSTEMD_INVOCATION_ID={invocation}", "-o", "cat", "--no-pager", "--quiet"
    ).splitlines()


def _systemd() -> int:
    version = re.search(r"systemd (\d+)", _said("systemctl", "--version"))
    return int(version[1]) if version else 0


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
