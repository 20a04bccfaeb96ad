"""Run the audit against the test box and read its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from llamarig.records.audit_report import AuditRecord

from tests.box.deployment import REPOSITORY_ROOT, Deployment, Outcome

AUDIT = "tasks/audit.py"
SCHEMA = REPOSITORY_ROOT / "tasks/llamarig/records/audit_report.schema.json"


def audit(deployment: Deployment, report: Path, *data: str) -> tuple[Outcome, dict[str, Any]]:
    """Run the audit; return its outcome and the host's part of its JSON report."""
    arguments = [word for item in (f"json={report}", *data) for word in ("--data", item)]
    outcome = deployment.run(*arguments, script=AUDIT)
    read_report(report)
    (host,) = json.loads(report.read_text())["hosts"]
    return outcome, host


def failing(host: dict[str, Any]) -> list[tuple[str, str]]:
    """Check and subject of every finding that fails the audit."""
    return [(finding["check"], finding["about"]) for finding in host["findings"] if finding["fails"]]


def read_report(report: Path) -> AuditRecord:
    """Read a report, validated with the published schema and with the models that it was made from."""
    text = report.read_text()
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    return AuditRecord.model_validate_json(text)
