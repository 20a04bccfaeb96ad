"""Run audits of a box simulated by pyinfra's fake connector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamarig.checks.base import Finding
from llamarig.commands.audit import AuditOptions, audit, queries_of_audit
from llamarig.commands.audit_run import run_of
from llamarig.declare.rig import Rig
from llamarig.engine.item import Query

from tests.engine.fake_run import HOST, OperationFailedError, fake_run
from tests.items.converged_box import batch_reply, control_machine, fact_command


@dataclass(frozen=True)
class Audited:
    """Findings of an audit, and every command it ran on the box."""

    findings: list[Finding]
    commands: list[str]

    @property
    def failing(self) -> list[Finding]:
        """The findings that fail the audit."""
        return [finding for finding in self.findings if finding.fails]


def audited(rig: Rig, outputs: Mapping[Query[Any], str] | None = None, *only: str) -> Audited:
    """Audit a box.

    :param outputs: query -> what its command prints; nothing for those left out
    :param only: ids of checks, or their first words
    """
    here = control_machine(rig) if Path(rig.model_lock).exists() else control_machine(rig, locked=None)
    printed = dict(outputs or {})
    replies = {
        **batch_reply(queries_of_audit(rig, here), printed),
        **{fact_command(one): text for one, text in printed.items()},
    }
    found: list[Finding] = []
    commands: list[str] = []

    def runs() -> None:
        audit(rig, AuditOptions(only=only))

    def keep(run: Any) -> None:
        found.extend(run_of(run.state).found[HOST])
        commands.extend(run.commands)

    try:
        with fake_run(replies=replies, deploys=[runs]) as this:
            keep(this)
    except OperationFailedError as failed:
        keep(failed.run)
    return Audited(found, commands)
