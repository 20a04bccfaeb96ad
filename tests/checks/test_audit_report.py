"""Machine-readable audit reports: JSON with a published schema, and node_exporter's text format."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from llamarig.checks.base import Finding, Severity
from llamarig.checks.registry import CHECKS
from llamarig.checks.report import audit_record, host_record, listing, prometheus, summary_line, unread_host_record
from llamarig.records.audit_report import AuditRecord

SCHEMA = Path(__file__).parents[2] / "tasks/llamarig/records/audit_report.schema.json"
WARNING = Finding("gpu.power", Severity.WARNING, "450 W", "600 W", "set it", about='RTX "A"')
UNKNOWN = Finding("memory.speed", Severity.UNKNOWN, "6000 MT/s", "not known: no dmidecode", "", fails=True)


def test_the_published_schema_is_the_models_own() -> None:
    """To publish a change: python -m llamarig.records.audit_report >tasks/llamarig/records/audit_report.schema.json."""
    assert json.loads(SCHEMA.read_text()) == AuditRecord.model_json_schema()


def test_the_status_follows_from_the_findings_and_unread_hosts() -> None:
    clean = host_record("a", CHECKS, {}, [])
    looked = host_record("b", CHECKS, {}, [UNKNOWN])
    found = host_record("c", CHECKS, {}, [WARNING, UNKNOWN])
    assert [record.status for record in (clean, looked, found)] == ["clean", "could-not-look", "findings"]
    assert looked.why == "memory.speed: not known: no dmidecode"
    assert audit_record([clean], "now").status == "clean"
    assert audit_record([clean, looked], "now").status == "could-not-look"
    assert audit_record([unread_host_record("d", "gone"), clean], "now").status == "could-not-look"
    assert audit_record([clean, looked, found], "now").status == "findings"
    assert [record.host for record in audit_record([clean, looked, found], "now").hosts] == ["c", "b", "a"]
    assert audit_record([], "now").status == "could-not-look", "nobody was looked at"


def test_one_line_a_host() -> None:
    line = summary_line(host_record("c", CHECKS, {"disk.room": "skip=disk"}, [WARNING]))
    assert line == f"c: findings, gpu.power, {len(CHECKS)} checks, 1 skipped"


LABEL = r'[a-z]+="(?:[^"\\]|\\["\\n])*"'


def samples(text: str) -> dict[str, int]:
    """Parse Prometheus text to (name and labels) -> value; assert that every line is valid and unique."""
    lines = [line for line in text.removesuffix("\n").split("\n") if not line.startswith("#")]
    matches = [re.fullmatch(rf"([a-z_]+\{{{LABEL}(?:,{LABEL})*\}}) (\d+)", line) for line in lines]
    assert all(matches), lines
    found = {match[1]: int(match[2]) for match in matches if match}
    assert len(found) == len(lines), "node_exporter refuses the whole file"
    return found


def test_prometheus_text_is_in_its_format() -> None:
    text = prometheus(audit_record([host_record("a", CHECKS, {}, [WARNING])], "now"), 1700000000)
    assert text.endswith("\n")
    output = samples(text)
    assert output['llamarig_audit_clean{host="a"}'] == 0
    assert output['llamarig_audit_timestamp_seconds{host="a"}'] == 1700000000


TEXTS = st.text(alphabet='ab"\\\n{},= é', max_size=3)
FINDINGS = st.builds(
    Finding,
    check=st.sampled_from(["gpu.power", "llama.other-servers"]),
    severity=st.sampled_from(Severity),
    expected=st.just("none"),
    found=TEXTS,
    remedy=st.just(""),
    about=TEXTS,
    fails=st.booleans(),
    accepted=st.sampled_from(["", "mine"]),
)


@given(hosts=st.dictionaries(TEXTS, st.lists(FINDINGS, max_size=6), max_size=3))
def test_no_two_samples_have_the_same_labels(hosts: dict[str, list[Finding]]) -> None:
    """Two stray servers of one program, or two equal cards, would otherwise have the same labels."""
    records = [host_record(name, CHECKS, {}, found) for name, found in hosts.items()]
    output = samples(prometheus(audit_record(records, "now"), 1))
    failing = {
        (record.host, finding.check, finding.about, finding.severity, bool(finding.accepted))
        for record in records
        for finding in record.findings
        if finding.fails
    }
    assert sum(value for name, value in output.items() if name.startswith("llamarig_audit_finding{")) == len(failing)


def test_the_listing_names_every_check() -> None:
    output = "\n".join(listing())
    assert all(check.id in output and check.expects in output for check in CHECKS)
