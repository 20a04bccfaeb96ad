"""What is not as declared. Audit reports exactly these; deploy closes those it can close."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """One thing that is not as declared, in the owner's words."""

    what: str
    expected: str
    found: str
    remedy: str = "run deploy.py"
    by_deploy: bool = True
    """False for what no program may change: BIOS settings, other people's files."""

    def __str__(self) -> str:
        return f"{self.finding}; {self.remedy}"

    @property
    def finding(self) -> str:
        """Without the remedy: what deploy itself says while it applies it."""
        return f"{self.what}: {self.found}, declared {self.expected}"
