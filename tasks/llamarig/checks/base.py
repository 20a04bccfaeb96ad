"""Checks and their findings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from llamarig.checks.box import Box
from llamarig.declare.rig import Rig
from llamarig.engine.item import Difference, Severity


@dataclass(frozen=True)
class Finding:
    """One thing that is not as expected.

    ``about``: which of several things (a unit, a GPU, a file); empty if there is only one. ``fails``: whether the audit
    is not clean because of it. ``accepted``: the owner's reason for accepting it; empty if it is not accepted.
    ``process``: pid of the running server it is about; 0 if it is about none.
    """

    check: str
    severity: Severity
    expected: str
    found: str
    remedy: str
    by_deploy: bool = False
    about: str = ""
    fails: bool = True
    accepted: str = ""
    process: int = 0
    covered_by: tuple[str, ...] = ()
    """Ids of checks that report the same cause: if one of them fails, this finding is left out."""

    @property
    def name(self) -> str:
        """The check's id, and what the finding is about."""
        return f"{self.check} {self.about}".rstrip()


class Check(ABC):
    """One thing that an audit compares. `--data list=1` prints the class attributes as its documentation."""

    id: str
    expects: str
    """What is expected, and the source: a field of the declaration, or what it is derived from."""
    remedy: str
    severity: Severity = Severity.WARNING
    by_deploy: bool = False
    """Whether deploy.py fixes it; if False, only the owner can."""

    @abstractmethod
    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Compare the box with what is expected of it."""

    def finding(
        self,
        found: str,
        expected: str,
        *,
        about: str = "",
        remedy: str | None = None,
        severity: Severity | None = None,
        process: int = 0,
    ) -> Finding:
        """A finding of this check. It fails the audit if its severity is ERROR or WARNING."""
        severity = self.severity if severity is None else severity
        return Finding(
            check=self.id,
            severity=severity,
            expected=expected,
            found=found,
            remedy=self.remedy if remedy is None else remedy,
            by_deploy=self.by_deploy,
            about=about,
            fails=severity in (Severity.ERROR, Severity.WARNING),
            process=process,
        )

    def not_known(self, why: str, expected: str = "", *, declared: bool = False, about: str = "") -> Finding:
        """A finding that the value could not be read. It fails the audit only if the owner declared the value."""
        return Finding(
            check=self.id,
            severity=Severity.UNKNOWN,
            expected=expected or self.expects,
            found=f"not known: {why}",
            remedy="",
            about=about,
            fails=declared,
        )

    def of_difference(self, difference: Difference, covered_by: tuple[str, ...] = ()) -> Finding:
        """A finding from one difference of an item's comparison."""
        unknown = difference.is_unknown
        return Finding(
            check=self.id,
            severity=Severity.UNKNOWN if unknown else self.severity,
            expected=difference.expected,
            found=f"not known: {difference.found}" if unknown else difference.found,
            remedy=difference.remedy,
            by_deploy=difference.by_deploy,
            about=difference.what,
            covered_by=covered_by,
        )


__all__ = ["Check", "Finding", "Severity"]
