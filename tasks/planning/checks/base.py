"""What a check is, and what it finds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from tasks.planning.checks.box import Box
from tasks.planning.difference import Difference
from tasks.spec.rig import Rig


class Severity(IntEnum):
    """Worst first. ``ERROR`` and ``WARNING`` fail an audit; ``UNKNOWN`` does where the owner declared the thing.

    ERROR: a model cannot be served, or is served unsafely. WARNING: slower than it could be, or not as declared.
    UNKNOWN: it could not be looked at. NOTE: worth knowing, nothing to mend.
    """

    ERROR = 0
    WARNING = 1
    UNKNOWN = 2
    NOTE = 3


@dataclass(frozen=True)
class Finding:
    """One thing that is not as expected, in the owner's words.

    ``about``: which of several (a unit, a GPU, a file), empty where there is only one. ``fails``: whether an audit that
    finds it is not clean. ``accepted``: the owner's reason for living with it, empty where there is none. ``process``:
    the running server it was seen in, by its number; 0 where it is not about one.
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

    @property
    def name(self) -> str:
        """The check, and what of it."""
        return f"{self.check} {self.about}".rstrip()


class Check(ABC):
    """One thing a box is checked for. The class attributes are its documentation: `--data list=1` prints them."""

    id: ClassVar[str]
    expects: ClassVar[str]
    """What is expected, and where that is taken from: the declaration's field, or what it is derived from."""
    remedy: ClassVar[str]
    severity: ClassVar[Severity] = Severity.WARNING
    by_deploy: ClassVar[bool] = False
    """Whether deploy.py brings it about; if not, no program may."""

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
    ) -> Finding:
        """This check's finding; a note fails no audit."""
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
        )

    def not_known(self, why: str, expected: str = "", *, declared: bool = False, about: str = "") -> Finding:
        """It could not be looked at. Only what the owner declared makes that a failure: nothing is guessed."""
        return Finding(
            check=self.id,
            severity=Severity.UNKNOWN,
            expected=expected or self.expects,
            found=f"not known: {why}",
            remedy="",
            about=about,
            fails=declared,
        )

    def of_differences(self, differences: Iterable[Difference]) -> Iterator[Finding]:
        """What deploy.py would change, as findings."""
        for difference in differences:
            yield Finding(
                check=self.id,
                severity=self.severity,
                expected=difference.expected,
                found=difference.found,
                remedy=difference.remedy,
                by_deploy=difference.by_deploy,
                about=difference.what,
            )
