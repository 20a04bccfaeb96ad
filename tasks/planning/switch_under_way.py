"""A switch that is under way on the box: whether it ends in what is declared, and what to say where it does not."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.planning import layout
from tasks.planning.fetch_under_way import RunningJob

SWITCH = "switch-"
"""What the names of all switches begin with, as jobs."""

ALL_SWITCHES = f"{SWITCH}*"
"""Every switch, as names of jobs are looked for."""


def switch_name(model: str) -> str:
    """The job that switches a model."""
    return f"{SWITCH}{model}"


def model_of(name: str) -> str:
    """The model that a switch is of."""
    return name.removeprefix(SWITCH)


def switches(running: Mapping[str, RunningJob]) -> dict[str, RunningJob]:
    """Of the jobs under way those that are switches."""
    return {name: job for name, job in running.items() if name.startswith(SWITCH)}


def is_wanted(running: RunningJob, texts: Mapping[str, str]) -> bool:
    """Whether a switch ends in a unit as it is wanted: the text holds all that decides what serves, and how.

    Not so its peers and whether it starts: those come from what served when it began.

    :param texts: unit -> the text that is wanted of it
    """
    text = texts.get(str(running.job.get("unit")))
    return text is not None and running.job.get("text") == text


def in_the_way(name: str, running: RunningJob) -> str:
    """The refusal of a switch while another one is under way."""
    commit = str(running.job.get("commit", ""))[:12]
    return (
        f"a switch of model {model_of(name)!r} is under way on the box since {running.since or 'some time'}"
        f"{f' (llama.cpp {commit})' if commit else ''}, to another unit than is declared here. Wait for its end and "
        "run this again; or stop it on the box, which brings back what served before it: "
        f"systemctl stop '{layout.job_unit(name)}*'"
    )
