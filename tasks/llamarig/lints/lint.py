"""A lint: a declaration that is valid but probably a mistake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llamarig.declare.lint_rules import LINT_RULES


@dataclass(frozen=True)
class Lint:
    """A finding about a declaration. ``warning``: it works, at a cost; ``refusal``: it cannot work, so nothing is
    started."""

    rule: str
    consequence: str
    remedy: str
    severity: Literal["warning", "refusal"] = "warning"

    def __post_init__(self) -> None:
        if self.rule not in LINT_RULES:
            raise ValueError(f"{self.rule} is missing in declare/lint_rules.py, so it could not be accepted")

    def __str__(self) -> str:
        return f'{self.rule}: {self.consequence}; {self.remedy}, or accept={{"{self.rule}": "your reason"}} in serve'
