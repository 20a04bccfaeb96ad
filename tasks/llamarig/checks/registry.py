"""The list of all checks, the selection of those to run, and their findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from llamarig.checks import disk, gpu, gpu_errors, gpu_memory, llama_cpp, memory, memory_room, processor, sandbox
from llamarig.checks.base import Check, Finding
from llamarig.checks.box import Box
from llamarig.checks.item_checks import item_checks
from llamarig.checks.llama_cpp import OtherServers
from llamarig.declare.rig import Rig
from llamarig.items.model_units import ServedModels

CHECKS: tuple[Check, ...] = (
    *(
        check()
        for module in (memory, memory_room, processor, gpu, gpu_errors, gpu_memory, disk, llama_cpp, sandbox)
        for check in vars(module).values()
        if isinstance(check, type) and issubclass(check, Check) and check.__module__ == module.__name__
    ),
    *item_checks(),
)
"""Every check of these modules, in the order of their classes, and those of the items."""


class NoSuchCheckError(ValueError):
    """A name that selects no check; the message lists the names."""


def selected(only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[Check]:
    """The checks to run. A name is a check's id, or the first word of several.

    :raises NoSuchCheckError: for a name that selects nothing
    """
    for name in (*only, *skip):
        if not any(is_selected_by(check, name) for check in CHECKS):
            ids = ", ".join(check.id for check in CHECKS)
            raise NoSuchCheckError(f"there is no check {name!r}; there are {ids}")
    return [
        check
        for check in CHECKS
        if (not only or any(is_selected_by(check, name) for name in only))
        and not any(is_selected_by(check, name) for name in skip)
    ]


def check_accepted_names(accepted: Iterable[str]) -> None:
    """Check that every name in host.accepted begins with a check's id, since a misspelt one would accept nothing.

    :raises NoSuchCheckError: naming the declaration
    """
    for name in accepted:
        if name.split(" ")[0] not in {check.id for check in CHECKS}:
            ids = ", ".join(check.id for check in CHECKS)
            raise NoSuchCheckError(f"host.accepted names {name!r}, which is no check; there are {ids}")


def is_selected_by(check: Check, name: str) -> bool:
    """Whether a name is the check's id, or the first word of it."""
    return name in (check.id, check.id.split(".")[0])


def findings(checks: Iterable[Check], rig: Rig, box: Box) -> list[Finding]:
    """The findings of the checks, worst first, and accepted ones last."""
    every = [finding for check in checks for finding in check.look(rig, box)]
    failing = {finding.check for finding in every if finding.fails}
    found = [_accepted(finding, rig.host.accepted) for finding in every if not failing & set(finding.covered_by)]
    return sorted(
        _merged_with_causes(found, box),
        key=lambda finding: (bool(finding.accepted), finding.severity, finding.check, finding.about),
    )


def _merged_with_causes(found: Sequence[Finding], box: Box) -> list[Finding]:
    """Merge the findings about an undeclared server, or one whose unit was edited, into the finding of that cause.

    Fixing the cause fixes them all. If the owner accepts the cause, its consequences stay findings of their own.
    """
    units = {server.unit: server.pid for server in box.strays.servers if server.unit}
    causes: dict[int, int] = {}
    for index, finding in enumerate(found):
        if not finding.accepted and finding.check == ServedModels.check and finding.about in units:
            causes.setdefault(units[finding.about], index)
        elif not finding.accepted and finding.check == OtherServers.id:
            causes.setdefault(finding.process, index)
    merged = dict(enumerate(found))
    for index, finding in enumerate(found):
        cause = causes.get(finding.process, index) if not finding.accepted else index
        if finding.process and cause != index:
            # About "LLAMA_ARG_X of stray.service" or "stray.service": the cause's finding names the server already.
            what = finding.about.partition(" of ")[0] if " of " in finding.about else ""
            both = f"{merged[cause].found}; {f'{what} {finding.found}'.strip()}"
            worst = min(merged[cause].severity, finding.severity)
            merged[cause] = replace(merged[cause], found=both, severity=worst)
            del merged[index]
    return list(merged.values())


def _accepted(finding: Finding, reasons: Mapping[str, str]) -> Finding:
    reason = reasons.get(finding.name) or reasons.get(finding.check)
    return replace(finding, accepted=reason, fails=False) if reason else finding
