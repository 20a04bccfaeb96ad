"""The report that `tasks/audit.py --data json=FILE` writes for programs. Its JSON schema is in this directory."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from llamarig.records import store

SCHEMA_VERSION: Literal[1] = 1
"""Raise it when a field changes its meaning or is removed, not for a new field."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FindingRecord(_Record):
    """One deviation from what is expected."""

    check: str = Field(description="id of the check, as in `--data list=1`")
    about: str = Field(description="which unit, GPU or file; empty where there is only one")
    severity: Literal["error", "warning", "unknown", "note"]
    expected: str
    found: str
    remedy: str = Field(description="what to do, in words; empty where there is nothing to do")
    by_deploy: bool = Field(description="whether deploy.py fixes it")
    fails: bool = Field(description="whether the host is not clean because of it")
    accepted: str = Field(description="reason for which the owner accepts it; empty where not accepted")


class HostRecord(_Record):
    """One host's audit."""

    host: str
    status: Literal["clean", "findings", "could-not-look"] = Field(
        description="could-not-look: some checks could not be made, and the others found nothing"
    )
    why: str = Field(description="reason for the status, in one line")
    checks: list[str] = Field(description="ids of the checks that were made")
    skipped: dict[str, str] = Field(description="id of a check -> why it was skipped")
    measured: dict[str, str] = Field(
        default={}, description="id of a check -> measured value, with --data disk=1 or bandwidth=1"
    )
    findings: list[FindingRecord]


class AuditRecord(_Record):
    """A whole run. ``status``: the worst of its hosts; the exit code is 0 only for `clean`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    taken_at: str = Field(description="time of writing by the clock of the control machine: ISO 8601, UTC")
    status: Literal["clean", "findings", "could-not-look"]
    hosts: list[HostRecord]


def write_audit_report(json_path: str, report: AuditRecord, prometheus_path: str, metrics: str) -> list[str]:
    """Write the report for programs and the metrics for node_exporter; an empty path means that file is not wanted.

    One file that cannot be written does not keep the other from being written.

    :returns: one message for each file that cannot be written
    """
    mistakes = []
    for path, text in ((json_path, report.model_dump_json(indent=1) + "\n"), (prometheus_path, metrics)):
        try:
            if path:
                store.write_text(path, text)
        except store.RecordError as error:
            mistakes.append(str(error))
    return mistakes


if __name__ == "__main__":
    print(json.dumps(AuditRecord.model_json_schema(), indent=1))
