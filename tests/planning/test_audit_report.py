"""What an audit tells programs: a schema that is published, and node_exporter's text format."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tasks.planning.checks.base import Finding, Severity
from tasks.planning.checks.registry import CHECKS
from tasks.planning.checks.report import audit_record, host_record, listing, not_reached, prometheus, summary_line
from tasks.spec.audit_report import AuditRecord

SCHEMA = Path(__file__).parents[2] / "tasks/spec/audit_report.schema.json"
WARNING = Finding("gpu.power", Severity.WARNING, "450 W", "600 W", "set it", about='RTX "A"')
UNKNOWN = Finding("memory.speed", Severity.UNKNOWN, "6000 MT/s", "not known: no dmidecode", "", fails=True)


def test_the_published_schema_is_the_models_own() -> None:
    """To publish a change: python -m tasks.spec.audit_report >tasks/spec/audit_report.schema.json."""
    assert json.loads(SCHEMA.read_text()) == AuditRecord.model_json_schema()


def test_statuses() -> None:
    clean = host_record("a", CHECKS, {}, [])
    looked = host_record("b", CHECKS, {}, [UNKNOWN])
    found = host_record("c", CHECKS, {}, [WARNING, UNKNOWN])
    assert [record.status for record in (clean, looked, found)] == ["clean", "could-not-look", "findings"]
    assert looked.why == "memory.speed: not known: no dmidecode"
    assert audit_record([clean], "now").status == "clean"
    assert audit_record([clean, looked], "now").status == "could-not-look"
    assert audit_record([not_reached("d"), clean], "now").status == "could-not-look"
    assert audit_record([looked, found], "now").status == "findings"


def test_one_line_a_host() -> None:
    line = summary_line(host_record("c", CHECKS, {"disk.room": "skip=disk"}, [WARNING]))
    assert line == f"c: findings, gpu.power, {len(CHECKS)} checks, 1 skipped"


def test_prometheus_text_is_in_its_format() -> None:
    text = prometheus(audit_record([host_record("a", CHECKS, {}, [WARNING])], "now"))
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert samples[0] == 'llamarig_audit_clean{host="a"} 0'
    label = r'[a-z]+="(?:[^"\\]|\\["\\n])*"'
    assert all(re.fullmatch(rf"[a-z_]+\{{{label}(?:,{label})*\}} [01]", sample) for sample in samples), samples
    assert text.endswith("\n")


def test_the_listing_names_every_check() -> None:
    said = "\n".join(listing())
    assert all(check.id in said and check.expects in said for check in CHECKS)
