"""What `tasks/audit.py --data json=FILE` writes, for programs to read. Its JSON schema lies beside this file."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal[1] = 1
"""Raised when a field changes its meaning or goes; a new field raises nothing."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FindingRecord(_Record):
    """One thing that is not as expected."""

    check: str = Field(description="id of the check, as `--data list=1` lists it")
    about: str = Field(description="which of several: a unit, a GPU, a file; empty where there is only one")
    severity: Literal["error", "warning", "unknown", "note"]
    expected: str
    found: str
    remedy: str = Field(description="what to do, in words; empty where nothing is to be done")
    by_deploy: bool = Field(description="whether deploy.py mends it")
    fails: bool = Field(description="whether it keeps the host from being clean")
    accepted: str = Field(description="the owner's reason for living with it; empty where it is not accepted")


class HostRecord(_Record):
    """One host's audit."""

    host: str
    status: Literal["clean", "findings", "could-not-look"] = Field(
        description="could-not-look: what the owner declared could not be looked at, and nothing else was found"
    )
    why: str = Field(description="the status in one line")
    checks: list[str] = Field(description="ids of the checks that were made")
    skipped: dict[str, str] = Field(description="id -> why it was not made")
    measured: dict[str, str] = Field(
        default={}, description="id -> what was measured for it with --data disk=1 or bandwidth=1, a finding or not"
    )
    findings: list[FindingRecord]


class AuditRecord(_Record):
    """A whole run. ``status`` is the worst of its hosts; only `clean` goes with exit code 0."""

    schema_version: Literal[1] = SCHEMA_VERSION
    taken_at: str = Field(
        description="when this was written, by the clock of the machine it was run from: ISO 8601, UTC"
    )
    status: Literal["clean", "findings", "could-not-look"]
    hosts: list[HostRecord]


if __name__ == "__main__":
    print(json.dumps(AuditRecord.model_json_schema(), indent=1))
