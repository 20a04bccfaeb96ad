"""The ledger of timings: what is written is read back, and damage is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.operations.bench_ledger import LedgerError, add_to_ledger, read_ledger
from tests.planning.test_bench import entry


def test_what_is_added_is_read_back_in_order(tmp_path: Path) -> None:
    path = str(tmp_path / "inventory/bench.jsonl")
    assert read_ledger(path) == []
    entries = [entry(1000), entry(1100), entry(1200, ram_bytes_per_token=7.5e8)]
    for one in entries:
        add_to_ledger(path, one)
    assert read_ledger(path) == entries


def test_a_line_is_added_whole_after_one_without_its_end(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    add_to_ledger(str(path), entry())
    path.write_text(path.read_text().rstrip("\n"))
    add_to_ledger(str(path), entry(1100))
    assert read_ledger(str(path)) == [entry(), entry(1100)]


@pytest.mark.parametrize(
    ("line", "said"),
    [("<<<<<<< HEAD", "JSON"), ('{"box": "a"}', "model: Field required"), ("[]", "object"), ('{"box": 1', "JSON")],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "bench.jsonl"
    add_to_ledger(str(path), entry())
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(LedgerError, match=r"bench\.jsonl line 2 is no timing") as caught:
        read_ledger(str(path))
    assert said in str(caught.value)
    assert "restore it from git" in str(caught.value)


def test_a_ledger_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="cannot be written"):
        add_to_ledger(str(tmp_path / "file" / "bench.jsonl"), entry())
