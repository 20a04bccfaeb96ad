"""The report of an audit: for people, for programs, and for Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from llamarig.checks.base import Check, Finding, Severity
from llamarig.checks.registry import CHECKS
from llamarig.records.audit_report import AuditRecord, FindingRecord, HostRecord
from llamarig.remote.shared.printable import printable

COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.UNKNOWN: "magenta", Severity.NOTE: "cyan"}
_WORST_FIRST = ("findings", "could-not-look", "clean")


def host_record(host: str, made: Sequence[Check], skipped: dict[str, str], found: Sequence[Finding]) -> HostRecord:
    """One host's part of the report, with its status."""
    failing = [finding for finding in found if finding.fails]
    if any(finding.severity is not Severity.UNKNOWN for finding in failing):
        status, why = "findings", ", ".join(dict.fromkeys(finding.check for finding in failing))
    elif failing:
        status, why = "could-not-look", printable(f"{failing[0].check}: {failing[0].found}")
    else:
        status, why = "clean", "everything is as declared"
    return HostRecord.model_validate(
        {
            "host": host,
            "status": status,
            "why": why,
            "checks": [check.id for check in made],
            "skipped": skipped,
            "findings": [_record(finding) for finding in found],
        }
    )


def _record(finding: Finding) -> FindingRecord:
    values = {name: getattr(finding, name) for name in FindingRecord.model_fields if name != "severity"}
    shown = {name: printable(value) if isinstance(value, str) else value for name, value in values.items()}
    return FindingRecord.model_validate({**shown, "severity": finding.severity.name.lower()})


def unread_host_record(host: str, why: str) -> HostRecord:
    """The record of a host that could not be read."""
    return HostRecord(host=host, status="could-not-look", why=printable(why), checks=[], skipped={}, findings=[])


def audit_record(hosts: Iterable[HostRecord], taken_at: str) -> AuditRecord:
    """The record of the whole run, worst host first, with that host's status; could-not-look if there is no host."""
    ordered = sorted(hosts, key=lambda record: (_WORST_FIRST.index(record.status), record.host))
    status = ordered[0].status if ordered else "could-not-look"
    return AuditRecord(taken_at=taken_at, status=status, hosts=ordered)


def summary_line(record: HostRecord) -> str:
    """One line for a host: its status, the failing checks, and the numbers of checks and findings."""
    counts = {
        "not accepted": sum(finding.fails for finding in record.findings),
        "accepted": sum(bool(finding.accepted) for finding in record.findings),
        "not known": sum(finding.severity == "unknown" and not finding.accepted for finding in record.findings),
        "notes": sum(finding.severity == "note" and not finding.accepted for finding in record.findings),
    }
    parts = [f"{record.host}: {record.status}"]
    if record.status != "clean":
        parts.append(record.why)
    if record.checks:
        parts.append(f"{len(record.checks)} checks")
    parts += [f"{counts[kind]} {kind}" for kind in ("accepted", "not known") if counts[kind]]
    if notes := counts["notes"]:
        parts.append("one note" if notes == 1 else f"{notes} notes")
    if record.skipped:
        parts.append(f"{len(record.skipped)} skipped")
    return ", ".join(parts)


def lines(finding: Finding) -> list[str]:
    """A finding on the screen: a line with what was found, and a line with the remedy."""
    kind = "accepted" if finding.accepted else finding.severity.name.lower()
    found = finding.found if finding.severity is Severity.UNKNOWN else f"{finding.found}; expected {finding.expected}"
    first = f"{kind:<8} {finding.name}: {found}"
    second = f"because {finding.accepted}" if finding.accepted else finding.remedy
    return [first, f"         -> {second}"] if second else [first]


def listing() -> list[str]:
    """The list of checks: what each expects, and whether deploy.py fixes it or what the owner can do."""
    listed = []
    for check in CHECKS:
        who = "deploy.py fixes it" if check.by_deploy else f"the owner fixes it: {check.remedy}"
        listed += [f"{check.id} ({check.severity.name.lower()})", f"    expects {check.expects}", f"    {who}"]
    return listed


def prometheus(record: AuditRecord, now: int) -> str:
    """The report in the format of node_exporter's textfile collector. ``now``: seconds since 1970."""
    clean = {_labels(host=item.host): int(item.status == "clean") for item in record.hosts}
    written = {_labels(host=item.host): now for item in record.hosts}
    # Two findings may have equal labels (two undeclared servers of one program), and the collector refuses a file with
    # duplicate label sets, so the worse one is written.
    found: dict[str, int] = {}
    for item in record.hosts:
        for finding in item.findings:
            labels = _labels(
                host=item.host,
                check=finding.check,
                about=finding.about,
                severity=finding.severity,
                accepted=str(bool(finding.accepted)).lower(),
            )
            found[labels] = max(found.get(labels, 0), int(finding.fails))
    return "".join(
        _metric(*metric)
        for metric in (
            (
                "llamarig_audit_clean",
                "1 if the host is as declared, 0 if it is not or could not be read.",
                clean,
            ),
            ("llamarig_audit_timestamp_seconds", "When this was written, in seconds since 1970.", written),
            ("llamarig_audit_finding", "A finding; 1 if it fails the audit of the host.", found),
        )
    )


def _metric(name: str, help_text: str, samples: Mapping[str, int]) -> str:
    head = [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
    return "\n".join([*head, *(f"{name}{{{labels}}} {value}" for labels, value in samples.items())]) + "\n"


def _labels(**values: str) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())


def _escaped(value: str) -> str:
    return re.sub(r'[\\"]', lambda match: "\\" + match[0], value).replace("\n", "\\n")
