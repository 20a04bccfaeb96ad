"""The jobs of a box (builds, downloads, switches): request, state and progress."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from pyinfra.api.facts import FactBase

from llamarig.facts.output import json_object, parse_blocks
from llamarig.remote.shared.jobs import JobStatus
from llamarig.remote.shared.record import Record
from llamarig.render import layout

J = TypeVar("J", bound=Record)


@dataclass(frozen=True)
class RunningJob:
    """``text``: its job.json; ``since``: when it started, as systemd prints it; ``owner``: user@machine."""

    text: str = ""
    since: str = ""
    owner: str = ""

    @property
    def by_and_since(self) -> str:
        """`` by anna@laptop since Sat 2026-11-21 20:04:47 UTC``, as far as known."""
        by = f" by {self.owner}" if self.owner else ""
        return f"{by} since {self.since}" if self.since else by

    def read(self, kind: type[J]) -> J:
        """Parse job.json, which another version of llamarig may have written: unreadable fields are empty."""
        return kind.from_stored(json_object(self.text))


@dataclass(frozen=True)
class Job:
    """``sha256``: of its job.json, empty where there is none; ``status``: as last reported."""

    sha256: str = ""
    running: bool = False
    status: JobStatus = field(default_factory=JobStatus)


class Jobs(FactBase[dict[str, Job]]):
    """Name -> Job, for the given names, without those of which systemd says nothing.

    Output::

        job=build-0c1e57098bba-a6a0c45d
        active=active
        status={"state": "running", "step": "installing", "started": 1795286835.2130468, ...
        job=fetch
        status={"state": "done", "step": "downloading", ...
    """

    default = dict

    def command(self, names: Iterable[str]) -> str:
        commands = (
            # Unlike is-active, list-units fails where systemd does not answer, as while it reloads on a busy box.
            f"units=$(systemctl list-units --all --plain --no-legend '{layout.job_unit(name)}*') && {{ "
            f"echo job={name}; echo active=$(printf '%s\\n' \"$units\" | tr -s ' ' | cut -d' ' -f3); "
            f"cd {layout.JOBS}/{name} 2>/dev/null && "
            '{ test -f job.json && echo "sha256=$(sha256sum <job.json | cut -c1-64)"; '
            # Not echo: that of Debian's sh interprets backslashes.
            "test -f status.json && printf 'status=%s\\n' \"$(tr -d '\\n' <status.json)\"; }; }"
            for name in sorted(names)
        )
        return "; ".join([*commands, "true"])

    def process(self, output: list[str]) -> dict[str, Job]:
        return {
            name: Job(
                sha256=values.get("sha256", ""),
                running=not {"active", "activating", "deactivating"}.isdisjoint(values.get("active", "").split()),
                status=JobStatus.from_stored(json_object(values.get("status", ""))),
            )
            for name, values in parse_blocks(output, "job").items()
        }


def _runs(unit: str) -> str:
    """A shell command that succeeds where a unit whose name begins like this is not stopped."""
    return f"systemctl is-active \"{unit}*\" | grep -qxE 'active|(de)?activating'"


class RunningJobs(FactBase[dict[str, RunningJob]]):
    """Name -> RunningJob, for every running job, by whomever it was started: name, start time, job.json, owner.json.

    Output::

        build-0c1e57098bba-a6a0c45d	Sat 2026-11-21 20:04:47 UTC	{ "backend": "cpu", ...
    """

    default = dict

    def command(self) -> str:
        unit = layout.job_unit("${n}")
        # Every deploy and audit reads this, and mostly nothing runs: then one systemctl shows it for all jobs.
        return (
            f"cd {layout.JOBS} 2>/dev/null && {_runs(layout.job_unit('*'))} && for n in *; do "
            f"{_runs(unit)} || continue; "
            f'since=$(systemctl show "{unit}*" --property=ActiveEnterTimestamp --value | grep -m 1 .); '
            # Not echo: that of Debian's sh interprets backslashes.
            "printf '%s\\t%s\\t%s\\t%s\\n' $n \"$since\" \"$(tr -d '\\n' <$n/job.json)\" "
            "\"$(tr -d '\\n' 2>/dev/null <$n/owner.json)\"; done; true"
        )

    def process(self, output: list[str]) -> dict[str, RunningJob]:
        rows = (line.split("\t", 3) for line in output)
        return {row[0]: RunningJob(row[2], row[1], _owner(row[3:])) for row in rows if len(row) >= 3}


def _owner(column: list[str]) -> str:
    """Read the owner of a job; an empty text where its owner.json is missing or damaged."""
    return str(json_object(column[0]).get("owner", "")) if column else ""
