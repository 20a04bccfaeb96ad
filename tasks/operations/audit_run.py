"""What an audit has found so far, host by host, and the report of it: one line a host, and files for programs.

The files of yesterday's clean run must not outlive a run of today that looked at nothing. So they are written before
the first host is looked at, again with every host that is told, and once more when pyinfra ends.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import click
from pyinfra import logger
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import ctx_state

from tasks.planning.checks.base import Finding
from tasks.planning.checks.report import audit_record, not_looked_at, prometheus, summary_line
from tasks.spec.audit_report import HostRecord

SCRIPT = "audit.py"
_COLOURS = {"clean": "green", "findings": "red"}


@dataclass
class Run:
    """What this process's audit has found so far; every host adds its own. ``failed``: host -> why not looked at.

    ``refused``: why this run looks at no host at all. ``told``: hosts whose line has been shown. ``written``: file ->
    the records it should hold. ``is_for_files``: false where this is no audit, or one that only asks what it would do
    (--dry).
    """

    found: dict[str, list[Finding]] = field(default_factory=dict)
    records: dict[str, HostRecord] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    told: set[str] = field(default_factory=set)
    written: dict[str, list[HostRecord]] = field(default_factory=dict)
    listed: bool = False
    is_for_files: bool = False

    def begin(self, state: State, json: str, prometheus_file: str) -> None:
        """Both files say that nothing has been looked at yet: this run may be killed. Once, whatever the hosts."""
        if self.is_for_files and not self.written:
            self._write(self._records(state), json, prometheus_file)  # what stands in the way is told at the end

    def tell(self, state: State, json: str, prometheus_file: str) -> str | None:
        """One line for every host that has none yet, and both files.

        pyinfra looks at all hosts and then tells of all; with --serial and --no-wait each is told before the next has
        been looked at: then a host's line comes with it, and the others' with the last.

        :returns: what stood in the way of a file, None when all is written
        """
        settled = self.records.keys() | self.failed.keys()
        records = self._records(state)
        if any(one in state.active_hosts and one.name not in settled for one in _meant(state)):
            self._tell_of(record for record in records if record.host in settled)
        else:
            self._tell_of(records)
        return self._write(records, json, prometheus_file)

    def told_at_last(self, state: State, json: str, prometheus_file: str) -> str | None:
        """Lines and files as they must be when nothing more comes; what stood in the way of a file."""
        records = self._records(state)
        self._tell_of(records)
        if any(self.written.get(path) != records for path in (json, prometheus_file) if path):
            return self._write(records, json, prometheus_file)
        return None

    def _tell_of(self, records: Iterable[HostRecord]) -> None:
        for item in audit_record(records, "").hosts:
            if item.host not in self.told:
                self.told.add(item.host)
                logger.info(click.style(summary_line(item), fg=_COLOURS.get(item.status, "magenta")))

    def _records(self, state: State) -> list[HostRecord]:
        return [self._record(state, one) for one in _meant(state)]

    def _record(self, state: State, one: Host) -> HostRecord:
        if one.name in self.records:
            return self.records[one.name]
        if self.refused:
            return not_looked_at(one.name, f"this run was refused: {self.refused}")
        if one not in state.activated_hosts:
            return not_looked_at(one.name, "it could not be reached")
        if one.name in self.failed:
            return not_looked_at(one.name, f"looking at it failed: {self.failed[one.name]}")
        if one in state.failed_hosts:
            return not_looked_at(one.name, "looking at it failed, as this run's output says")
        return not_looked_at(one.name, "it was not looked at, or not to the end, before this was written")

    def _write(self, records: list[HostRecord], json: str, prometheus_file: str) -> str | None:
        now = datetime.now(UTC)
        record = audit_record(records, now.isoformat(timespec="seconds"))
        texts = [
            (json, record.model_dump_json(indent=1) + "\n"),
            (prometheus_file, prometheus(record, int(now.timestamp()))),
        ]
        troubles = []
        for path, text in texts:
            if path:
                self.written[path] = records  # or said that it cannot be, once
                try:
                    # A scraper must never read half a file.
                    part = Path(f"{path}.part")
                    part.write_text(text)
                    part.replace(path)
                except OSError as error:
                    troubles.append(f"{path} cannot be written ({error.strerror}): name a file in a directory of yours")
        return "; ".join(troubles) or None


RUN = Run()


def _meant(state: State) -> Iterator[Host]:
    """The hosts of this run: those of the inventory, less what --limit and --exclude leave out."""
    if getattr(state, "initialised", False):  # not so where the inventory could not be read
        yield from (one for one in state.inventory if state.is_host_in_limit(one))


def told_at_exit() -> None:
    """Where this process is an audit, every host is told and its files are true when it ends, whoever was reached.

    pyinfra ends such a run before it reads tasks/audit.py, and may read no group_data where there is no inventory, so
    this has to be called by something that is read whatever happens: config.py.
    """
    asked = click.get_current_context(silent=True)
    scripts = asked.params.get("operations") or () if asked is not None else ()
    if asked is None or asked.params.get("dry") or not any(Path(name).name == SCRIPT for name in scripts):
        return
    RUN.is_for_files = True
    data = dict(item.partition("=")[::2] for item in asked.params.get("data") or ())
    atexit.register(_tell_at_last, ctx_state.get(), data)  # type: ignore[no-untyped-call]  # pyinfra gives it no types


def refused(state: State, why: str) -> None:
    """Where this process is an audit, tell now that no host of it is looked at, and why; both files say so too."""
    if RUN.is_for_files:
        RUN.refused = why
        _tell_at_last(state, {})


def _tell_at_last(state: State, data: Mapping[str, str]) -> None:
    """``data``: what the command line asked for, which is all there is to go by without a host."""
    first = next(iter(state.inventory), None) if getattr(state, "initialised", False) else None
    requested = first.data.get if first is not None else data.get
    if requested("list"):
        return
    files = (str(requested(key) or "") for key in ("json", "prometheus"))
    if (trouble := RUN.told_at_last(state, *files)) is not None:
        logger.error(trouble)
