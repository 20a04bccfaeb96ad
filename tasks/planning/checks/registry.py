"""All checks, which of them to run, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tasks.planning.checks import disk, gpu, gpu_memory, llama_cpp, memory, processor
from tasks.planning.checks.base import Check, Finding
from tasks.planning.checks.box import Box
from tasks.planning.checks.llama_cpp import OtherServers, UnitsAsDeclared
from tasks.spec.rig import Rig

CHECKS: tuple[Check, ...] = (*memory.ALL, *processor.ALL, *gpu.ALL, *gpu_memory.ALL, *disk.ALL, *llama_cpp.ALL)


class NoSuchCheckError(ValueError):
    """A name that selects no check; the message lists those there are."""


def selected(only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[Check]:
    """The checks to run. A name is a check's id, or its first word for all of its kind.

    :raises NoSuchCheckError: for a name that selects nothing
    """
    for name in (*only, *skip):
        if not any(is_meant(check, name) for check in CHECKS):
            known = ", ".join(check.id for check in CHECKS)
            raise NoSuchCheckError(f"there is no check {name!r}; there are {known}")
    return [
        check
        for check in CHECKS
        if (not only or any(is_meant(check, name) for name in only)) and not any(is_meant(check, name) for name in skip)
    ]


def known_by_name(accepted: Iterable[str]) -> None:
    """Whether every accepted finding is one of a check there is: a misspelt one would accept nothing, silently.

    :raises NoSuchCheckError: naming the declaration
    """
    for name in accepted:
        if name.split(" ")[0] not in {check.id for check in CHECKS}:
            known = ", ".join(check.id for check in CHECKS)
            raise NoSuchCheckError(f"host.accepted names {name!r}, which is no check; there are {known}")


def is_meant(check: Check, name: str) -> bool:
    """Whether a name is the check's id, or the first word of it."""
    return name in (check.id, check.id.split(".")[0])


def findings(checks: Iterable[Check], rig: Rig, box: Box) -> list[Finding]:
    """What the checks find, worst first; accepted ones last, with their reason."""
    found = [
        _accepted(_refused(finding, check, box), rig.host.accepted)
        for check in checks
        for finding in check.look(rig, box)
    ]
    return sorted(
        _told_with_its_cause(found, box),
        key=lambda finding: (bool(finding.accepted), finding.severity, finding.check, finding.about),
    )


def _told_with_its_cause(found: Sequence[Finding], box: Box) -> list[Finding]:
    """What a server does that nobody declared, or one whose unit was edited, is told with that server or that unit.

    It is one thing to mend. Where the owner lives with the cause, its consequences are told for themselves.
    """
    units = {server.unit: server.pid for server in box.strays.servers if server.unit}
    causes: dict[int, int] = {}
    for index, finding in enumerate(found):
        if not finding.accepted and finding.check == UnitsAsDeclared.id and finding.about in units:
            causes.setdefault(units[finding.about], index)
        elif not finding.accepted and finding.check == OtherServers.id:
            causes.setdefault(finding.process, index)
    told = dict(enumerate(found))
    for index, finding in enumerate(found):
        cause = causes.get(finding.process, index) if not finding.accepted else index
        if finding.process and cause != index:
            # "LLAMA_ARG_X of stray.service" is set, "stray.service" listens: the cause has named the server itself.
            what = finding.about.partition(" of ")[0] if " of " in finding.about else ""
            said = f"{told[cause].found}; {f'{what} {finding.found}'.strip()}"
            worst = min(told[cause].severity, finding.severity)
            told[cause] = replace(told[cause], found=said, severity=worst)
            del told[index]
    return list(told.values())


def _refused(finding: Finding, check: Check, box: Box) -> Finding:
    """Nobody is sent to run deploy.py where that would refuse: what it would say is the remedy."""
    for operation, why in box.refusals.items():
        if finding.by_deploy and type(check) in box.operations.get(operation, ()):
            same = finding.found in why
            remedy = "mend what is said here: deploy.py refuses until then" if same else f"deploy.py refuses: {why}"
            return replace(finding, by_deploy=False, remedy=remedy)
    return finding


def _accepted(finding: Finding, reasons: Mapping[str, str]) -> Finding:
    reason = reasons.get(finding.name) or reasons.get(finding.check)
    return replace(finding, accepted=reason, fails=False) if reason else finding
