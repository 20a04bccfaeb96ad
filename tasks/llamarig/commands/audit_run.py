"""The state of an audit, and its report: a verdict on the screen, and files for programs.

Files of an earlier, clean run must not remain after a run that reached no host. So they are written before the first
host is read, again after every host, and at the end of pyinfra, when the verdict is printed as the last block.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import click
from pyinfra import logger
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import ctx_state

from llamarig.checks.base import Finding
from llamarig.checks.report import audit_record, lines, prometheus, summary_line, unread_host_record
from llamarig.engine.screen import announce, announce_heading
from llamarig.records.audit_report import HostRecord, write_audit_report

_COLOURS = {"clean": "green", "findings": "red"}


@dataclass
class AuditRun:
    """The findings of this process's audit so far. Every host adds its own."""

    found: dict[str, list[Finding]] = field(default_factory=dict)
    records: dict[str, HostRecord] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Host -> why it could not be read."""
    refused: str = ""
    """Why this run was refused before it connected to a host."""
    written: dict[str, list[HostRecord]] = field(default_factory=dict)
    """File -> the records last written to it."""
    listed: bool = False
    is_audit: bool = False
    """False if pyinfra only prepares (--dry)."""

    def begin(self, state: State, json: str, prometheus_file: str) -> None:
        """Write both files once at the start, with no host read yet, in case this run is killed."""
        if self.is_audit and not self.written:
            self.write(state, json, prometheus_file)  # an error is reported at the end

    def write(self, state: State, json: str, prometheus_file: str) -> str | None:
        """Write both files with the hosts read so far.

        :returns: why a file could not be written; None if all are
        """
        return self._write(self._records(state), json, prometheus_file)

    def verdict(self, state: State, json: str, prometheus_file: str) -> str | None:
        """Print the verdict, one line for each host, and write both files for the last time.

        :returns: why a file could not be written; None if all are
        """
        records = self._records(state)
        ordered = audit_record(records, "").hosts
        clean = sum(record.status == "clean" for record in ordered)
        if ordered:
            hosts = "host is" if len(ordered) == 1 else "hosts are"
            announce_heading(f"Audit: {clean} of {len(ordered)} {hosts} as declared")
        for record in ordered:
            announce(summary_line(record), fg=_COLOURS.get(record.status, "magenta"))
            for finding in self.found.get(record.host, ()):
                if finding.fails:
                    announce(f"    {lines(finding)[0].partition(' ')[2].strip()}")
        if any(self.written.get(path) != records for path in (json, prometheus_file) if path):
            return self._write(records, json, prometheus_file)
        return None

    def _records(self, state: State) -> list[HostRecord]:
        return [self._record(state, one) for one in _hosts_of_run(state)]

    def _record(self, state: State, one: Host) -> HostRecord:
        if one.name in self.records:
            return self.records[one.name]
        if self.refused:
            return unread_host_record(one.name, f"this run was refused: {self.refused}")
        if one not in state.activated_hosts:
            return unread_host_record(one.name, "it could not be reached")
        if one.name in self.failed:
            return unread_host_record(one.name, f"reading it failed: {self.failed[one.name]}")
        if one in state.failed_hosts:
            return unread_host_record(one.name, "reading it failed, see the output of this run")
        return unread_host_record(one.name, "it had not been read completely when this was written")

    def _write(self, records: list[HostRecord], json: str, prometheus_file: str) -> str | None:
        now = datetime.now(UTC)
        record = audit_record(records, now.isoformat(timespec="seconds"))
        self.written.update(dict.fromkeys((path for path in (json, prometheus_file) if path), records))
        mistakes = write_audit_report(json, record, prometheus_file, prometheus(record, int(now.timestamp())))
        return "; ".join(mistakes) or None


def run_of(state: State) -> AuditRun:
    """The audit of this pyinfra run, kept on pyinfra's own state."""
    found: AuditRun | None = getattr(state, "llamarig_audit", None)
    if found is None:
        found = AuditRun()
        state.llamarig_audit = found  # type: ignore[attr-defined]  # a field of our own on pyinfra's object
    return found


def _hosts_of_run(state: State) -> Iterator[Host]:
    """The hosts of the inventory, without those that --limit and --exclude leave out."""
    if getattr(state, "initialised", False):  # False if the inventory could not be read
        yield from (one for one in state.inventory if state.is_host_in_limit(one))


def verdict_at_exit() -> None:
    """Print the verdict of this audit and complete its files when the process ends, even if no host was reached.

    Called from config.py, the only file that pyinfra always reads: without a reachable host it does not read
    tasks/audit.py, and without an inventory no group_data either. Does nothing where pyinfra only prepares (--dry).
    """
    context = click.get_current_context(silent=True)
    if context is None or context.params.get("dry"):
        return
    state = ctx_state.get()  # type: ignore[no-untyped-call]  # pyinfra gives it no types
    run_of(state).is_audit = True
    data = dict(item.partition("=")[::2] for item in context.params.get("data") or ())
    atexit.register(_end, state, data)


def record_refusal(state: State, why: str) -> None:
    """Record why a run was refused before it connected to a host, for the verdict and the files of an audit."""
    run_of(state).refused = why


def _end(state: State, data: Mapping[str, str]) -> None:
    """``data``: of the command line, for a run without a host."""
    first = next(iter(state.inventory), None) if getattr(state, "initialised", False) else None
    requested = first.data.get if first is not None else data.get
    if requested("list"):
        return
    files = (str(requested(key) or "") for key in ("json", "prometheus"))
    if (problem := run_of(state).verdict(state, *files)) is not None:
        announce(problem, log_func=logger.error)
