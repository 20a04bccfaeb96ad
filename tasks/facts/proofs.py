"""What switches recorded of each model unit: what it was before, and what its start had to do without."""

from __future__ import annotations

from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override

from tasks.facts.json_text import json_object
from tasks.planning import layout


class PreviousProofs(FactBase[dict[str, dict[str, Any]]]):
    """Unit name -> the proof before the current one: its text, its whole switch job, when it answered."""

    @staticmethod
    @override
    def default() -> dict[str, dict[str, Any]]:
        return {}

    @override
    def command(self) -> str:
        return (
            f"for f in {layout.PROOFS}/*.previous.json; do test -f $f || continue; "
            "printf '%s\\t' $(basename $f .previous.json); tr -d '\\n' <$f; echo; done; true"
        )

    @override
    def process(self, output: list[str]) -> dict[str, dict[str, Any]]:
        proofs = {}
        for line in output:
            unit, _, written = line.partition("\t")
            proof = json_object(written)
            text, job = proof.get("text"), proof.get("job")
            if isinstance(text, str) and isinstance(job, dict) and {"unit", "text", "commit"} <= job.keys():
                proofs[unit] = proof
        return proofs


class BackOffs(FactBase[dict[str, dict[str, Any]]]):
    """Unit name -> the step down that the last start of a planned model had to take, for those that had to."""

    @staticmethod
    @override
    def default() -> dict[str, dict[str, Any]]:
        return {}

    @override
    def command(self) -> str:
        return (
            f"for f in {layout.PROOFS}/*.service.json; do grep -q '\"backed_off\": {{' $f 2>/dev/null || continue; "
            "printf '%s\\t' $(basename $f .json); tr -d '\\n' <$f; echo; done; true"
        )

    @override
    def process(self, output: list[str]) -> dict[str, dict[str, Any]]:
        found = {}
        for line in output:
            unit, _, text = line.partition("\t")
            try:
                off = json_object(text)["backed_off"]
                if isinstance(off["missing_mib"], dict) and {"of", "placement", "reason"} <= off.keys():
                    found[unit] = off
            except (KeyError, TypeError, AttributeError):
                continue
        return found
