"""One lint: its name, how bad it is, what follows from it, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tasks.spec.lint_rules import LINT_RULES

Severity = Literal["warning", "refusal"]


@dataclass(frozen=True)
class Lint:
    """``warning``: works, with a cost. ``refusal``: cannot work as declared, so nothing is started."""

    rule: str
    severity: Severity
    consequence: str
    remedy: str

    def __post_init__(self) -> None:
        if self.rule not in LINT_RULES:
            raise ValueError(f"{self.rule} is missing in tasks/spec/lint_rules.py, so nobody could accept it")

    def __str__(self) -> str:
        return f'{self.rule}: {self.consequence}; {self.remedy}, or accept={{"{self.rule}": "your reason"}} in serve'
