"""Every refusal has a row in EVIDENCE.md, and every row an evidence. tests/box/test_refusals_are_true.py tries them."""

from __future__ import annotations

from pathlib import Path

import pytest
from llamarig.declare.lint_rules import LINT_RULES

from tests.refusals.evidence import PACKAGE, Row, covers, refusals, rows

ROOT = PACKAGE.parents[1]
ROWS = rows()


def test_every_refusal_has_a_row() -> None:
    missing = [refusal for refusal in refusals() if not any(covers(row, refusal) for row in ROWS)]
    assert not missing, "\n".join(f"{one.where}: {one.text[:160]}" for one in missing)


def test_every_row_is_about_a_refusal() -> None:
    known = list(refusals())
    left_over = [row for row in ROWS if not any(covers(row, refusal) for refusal in known)]
    assert not left_over, "\n".join(f"{row.where}: {row.what}" for row in left_over)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.where} {row.what}"[:80])
def test_a_row_has_evidence(row: Row) -> None:
    assert row.is_evidence, row.evidence
    for path, name in row.tests:
        assert (ROOT / path).is_file(), path
        assert name in Path(ROOT / path).read_text(), f"{path} has no {name}"


def test_there_are_refusing_lints_and_each_is_scanned() -> None:
    """Among them are those that are known, so that a change of how lints are written is noticed."""
    texts = [refusal.text for refusal in refusals() if refusal.where.startswith("lints/")]
    known = {"memory-lock", "memory-max", "gpu-missing", "path-unseen", "mtp-missing", "override-not-a-regex"}
    assert known <= set(LINT_RULES)
    assert all(any(f"'{rule}'" in text for text in texts) for rule in known)
