"""The long jobs of a box: what was asked, whether it still runs, and how far it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.json_text import json_object
from tasks.planning import layout
from tasks.planning.fetch_under_way import RunningJob


@dataclass(frozen=True)
class Job:
    """``asked``: sha256 of its job.json, empty where there is none; ``status``: its last word about itself."""

    asked: str = ""
    running: bool = False
    status: dict[str, Any] = field(default_factory=dict)


class Jobs(FactBase[dict[str, Job]]):
    """Name -> Job, for the names asked for."""

    @staticmethod
    @override
    def default() -> dict[str, Job]:
        return {}

    @override
    def command(self, names: Iterable[str]) -> str:
        asked = (
            f"echo job={name}; systemctl is-active '{layout.job_unit(name)}*' | sort -u | sed s/^/active=/; "
            f"cd {layout.JOBS}/{name} 2>/dev/null && "
            '{ test -f job.json && echo "asked=$(sha256sum <job.json | cut -c1-64)"; '
            # Not echo: Debian's would turn the backslashes of JSON into line breaks.
            "test -f status.json && printf 'status=%s\\n' \"$(tr -d '\\n' <status.json)\"; }"
            for name in sorted(names)
        )
        return "; ".join([*asked, "true"])

    @override
    def process(self, output: list[str]) -> dict[str, Job]:
        jobs: dict[str, dict[str, str]] = {}
        values: dict[str, str] = {}
        for line in output:
            key, _, value = line.partition("=")
            if key == "job":
                values = jobs[value] = {}
            elif key == "active":
                values[key] = f"{values.get(key, '')} {value}"
            else:
                values[key] = value
        return {
            name: Job(
                asked=values.get("asked", ""),
                running=not {"active", "activating", "deactivating"}.isdisjoint(values.get("active", "").split()),
                status=json_object(values.get("status", "")),
            )
            for name, values in jobs.items()
        }


class RunningJobs(FactBase[dict[str, RunningJob]]):
    """Name -> RunningJob, for every job that is under way, whoever asked for it."""

    @staticmethod
    @override
    def default() -> dict[str, RunningJob]:
        return {}

    @override
    def command(self) -> str:
        unit = layout.job_unit("${n}")
        return (
            f"cd {layout.JOBS} 2>/dev/null && for n in *; do "
            f"systemctl is-active \"{unit}*\" | grep -qxE 'active|(de)?activating' || continue; "
            f'since=$(systemctl show "{unit}*" --property=ActiveEnterTimestamp --value | grep -m 1 .); '
            # Not echo: Debian's would turn the backslashes of JSON into line breaks.
            "printf '%s\\t%s\\t%s\\n' $n \"$since\" \"$(tr -d '\\n' <$n/job.json)\"; done; true"
        )

    @override
    def process(self, output: list[str]) -> dict[str, RunningJob]:
        rows = (line.split("\t", 2) for line in output)
        return {row[0]: RunningJob(row[2], json_object(row[2]), row[1]) for row in rows if len(row) == 3}
