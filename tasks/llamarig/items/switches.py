"""Switches of model units. One runs at a time on a box; a running one is waited for, refused, or stopped on request."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from pyinfra.api.command import PyinfraCommand
from pyinfra.context import host

from llamarig.engine.item import Commands
from llamarig.engine.jobs import SWITCH, await_jobs, start_job
from llamarig.engine.refuse import refuse
from llamarig.engine.run import ask
from llamarig.engine.screen import say
from llamarig.facts.jobs import RunningJob, RunningJobs
from llamarig.remote.shared.admission import TUNING, job_words
from llamarig.remote.shared.jobs import SwitchJob
from llamarig.remote.shared.unit_directives import directives
from llamarig.render import layout
from llamarig.render.switch_recovery import RESTORE, SERVICE

SWITCH_PROPERTIES = (
    # A stopped switch restores the previous server, which takes one stop and one start.
    "TimeoutStopSec=120",
    # Also after SIGKILL, and where the kernel has killed it for want of memory.
    f"ExecStopPost={RESTORE}",
    # Linux 6.18 was seen to kill that, too, when the whole control group is killed (systemctl kill -s KILL).
    f"OnFailure={SERVICE}",
)


def switches_awaited(
    texts: Mapping[str, str], *, takeover: bool = False
) -> Generator[PyinfraCommand, None, set[str] | None]:
    """Wait for a running switch to a declared unit; refuse while any other switch runs.

    :param texts: unit -> its declared text
    :param takeover: whether another switch is left alone here, because the next job stops it
    :return: models whose switch was waited for; None after a refusal
    """
    running = ask(RunningJobs)
    found = _switches(running)
    if takeover:
        found = {name: job for name, job in found.items() if is_wanted(job, texts)}
    elif refusals := switch_refusals(running, texts):
        yield from refuse("; ".join(refusals))
        return None
    for name in found:
        say(host, f"the switch of {_model(name)} is already running on the box")
    if found:
        yield await_jobs({name: _model(name) for name in found})
    return {_model(name) for name in found}


def switch_refusals(running: Mapping[str, RunningJob], texts: Mapping[str, str]) -> list[str]:
    """The refusal for each running switch that does not end with a declared unit.

    :param running: name -> job, of all running jobs
    :param texts: unit -> its declared text
    """
    return [running_switch_refusal(name, job) for name, job in _switches(running).items() if not is_wanted(job, texts)]


def run_switch(model: str, job: SwitchJob, *, takeover: bool = False) -> Commands:
    """Switch a model's unit and wait for the end; fails if another job is in its way, or with ``takeover`` stops it."""
    name = f"{SWITCH}{model}"
    yield from start_job(
        name, "serve.switch_unit", job, takeover=takeover, sandboxed=False, properties=SWITCH_PROPERTIES
    )
    yield await_jobs({name: model})


def is_wanted(running: RunningJob, texts: Mapping[str, str]) -> bool:
    """Whether a running switch ends with the declared unit, by its directives.

    The peers it stops and whether it starts the unit are not compared: they depend on what served when it began.

    :param texts: unit -> its declared text
    """
    job = running.read(SwitchJob)
    return job.unit in texts and directives(job.text) == directives(texts[job.unit])


def running_switch_refusal(name: str, running: RunningJob) -> str:
    """The refusal of a switch while another one runs."""
    if name.endswith(TUNING):
        return (
            f"{job_words(name)} is running on the box{running.by_and_since}. Wait until it ends and run this again; or "
            "stop it, which restores the previous server: run this with --data takeover=1, or on the box systemctl "
            f"stop '{layout.job_unit(name)}*'"
        )
    commit = running.read(SwitchJob).commit[:12]
    build = f" (llama.cpp {commit})" if commit else ""
    return (
        f"a switch of model {_model(name)!r} to another unit than the declared one{build} is running on the box"
        f"{running.by_and_since}. Wait until it ends and run this again; or stop it, which restores the previous "
        f"server: run this with --data takeover=1, or on the box systemctl stop '{layout.job_unit(name)}*'"
    )


def _switches(running: Mapping[str, RunningJob]) -> dict[str, RunningJob]:
    return {name: job for name, job in running.items() if name.startswith(SWITCH)}


def _model(name: str) -> str:
    return name.removeprefix(SWITCH)
