"""All checks, which of them to run, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tasks.planning.checks import disk, gpu, llama_cpp, memory, processor
from tasks.planning.checks.base import Check, Finding
from tasks.planning.checks.box import Box
from tasks.spec.rig import Rig

CHECKS: tuple[Check, ...] = (*memory.ALL, *processor.ALL, *gpu.ALL, *disk.ALL, *llama_cpp.ALL)


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
    return sorted(found, key=lambda finding: (bool(finding.accepted), finding.severity, finding.check, finding.about))


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
