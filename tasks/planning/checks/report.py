"""What an audit says: to a person, to a program, to a monitoring system."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from tasks.planning.checks.base import Check, Finding, Severity
from tasks.planning.checks.registry import CHECKS
from tasks.spec.audit_report import AuditRecord, FindingRecord, HostRecord

COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.UNKNOWN: "magenta", Severity.NOTE: "cyan"}
_WORST_FIRST = ("findings", "could-not-look", "clean")


def host_record(host: str, made: Sequence[Check], skipped: dict[str, str], found: Sequence[Finding]) -> HostRecord:
    """One host's part of the report, with its status."""
    failing = [finding for finding in found if finding.fails]
    if any(finding.severity is not Severity.UNKNOWN for finding in failing):
        status, why = "findings", ", ".join(dict.fromkeys(finding.check for finding in failing))
    elif failing:
        status, why = "could-not-look", f"{failing[0].check}: {failing[0].found}"
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
    return FindingRecord.model_validate(
        {
            **{name: getattr(finding, name) for name in FindingRecord.model_fields if name != "severity"},
            "severity": finding.severity.name.lower(),
        }
    )


def not_looked_at(host: str, why: str) -> HostRecord:
    """A host of the inventory of which nothing is known."""
    return HostRecord(host=host, status="could-not-look", why=why, checks=[], skipped={}, findings=[])


def audit_record(hosts: Iterable[HostRecord], taken_at: str) -> AuditRecord:
    """The whole run, worst host first; its status is that host's. A run of no hosts has looked at nothing."""
    ordered = sorted(hosts, key=lambda record: (_WORST_FIRST.index(record.status), record.host))
    status = ordered[0].status if ordered else "could-not-look"
    return AuditRecord(taken_at=taken_at, status=status, hosts=ordered)


def summary_line(record: HostRecord) -> str:
    """One line a host: its status, how many of what, and which."""
    counts = {
        "not accepted": sum(finding.fails for finding in record.findings),
        "accepted": sum(bool(finding.accepted) for finding in record.findings),
        "not known": sum(finding.severity == "unknown" and not finding.accepted for finding in record.findings),
        "notes": sum(finding.severity == "note" and not finding.accepted for finding in record.findings),
    }
    said = [f"{record.host}: {record.status}"]
    if record.status != "clean":
        said.append(record.why)
    if record.checks:
        said.append(f"{len(record.checks)} checks")
    said += [f"{counts[kind]} {kind}" for kind in ("accepted", "not known", "notes") if counts[kind]]
    if record.skipped:
        said.append(f"{len(record.skipped)} skipped")
    return ", ".join(said)


def lines(finding: Finding) -> list[str]:
    """A finding as a person reads it: what and where, then what to do."""
    kind = "accepted" if finding.accepted else finding.severity.name.lower()
    told = finding.found if finding.severity is Severity.UNKNOWN else f"{finding.found}; expected {finding.expected}"
    said = [f"{kind:<8} {finding.name}: {told}"]
    then = f"because {finding.accepted}" if finding.accepted else finding.remedy
    return [*said, f"         -> {then}"] if then else said


def listing() -> list[str]:
    """Every check, what it expects and from where, and whether deploy.py brings it about."""
    said = []
    for check in CHECKS:
        who = "deploy.py mends it" if check.by_deploy else f"yours to mend: {check.remedy}"
        said += [f"{check.id} ({check.severity.name.lower()})", f"    expects {check.expects}", f"    {who}"]
    return said


def prometheus(record: AuditRecord, now: int) -> str:
    """The run in the text format node_exporter's textfile collector reads. ``now``: seconds since 1970."""
    clean = {_labels(host=item.host): int(item.status == "clean") for item in record.hosts}
    written = {_labels(host=item.host): now for item in record.hosts}
    # Two findings may be alike in all that is a label (two stray servers of one program), and a file that has a label
    # set twice is refused as a whole: the worse of them speaks for both.
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
        _metric(*told)
        for told in (
            ("llamarig_audit_clean", "Whether the host is as declared (1), or not or not to be looked at (0).", clean),
            ("llamarig_audit_timestamp_seconds", "When this was written, in seconds since 1970.", written),
            ("llamarig_audit_finding", "A finding; 1 where it keeps the host from being clean.", found),
        )
    )


def _metric(name: str, help_text: str, samples: Mapping[str, int]) -> str:
    said = [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
    return "\n".join([*said, *(f"{name}{{{labels}}} {value}" for labels, value in samples.items())]) + "\n"


def _labels(**values: str) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())


def _escaped(value: str) -> str:
    return re.sub(r'[\\"]', lambda match: "\\" + match[0], value).replace("\n", "\\n")
