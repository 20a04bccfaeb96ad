"""The ledger of timings: what is appended is read back, and a damaged line is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from llamarig.records.bench_ledger import append_timing, read_ledger
from llamarig.records.store import RecordError

from tests.records.sample_records import timing


def test_timings_are_read_back_in_order(tmp_path: Path) -> None:
    path = str(tmp_path / "inventory/bench.jsonl")
    assert read_ledger(path) == []
    entries = [timing(50), timing(51), timing(52, ram_bytes_per_token=7.5e8)]
    for entry in entries:
        append_timing(path, entry)
    assert read_ledger(path) == entries


def test_a_ledger_without_schema_versions_is_version_1(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    old = json.dumps(timing().model_dump(mode="json"), sort_keys=True) + "\n"
    path.write_text(old)
    append_timing(str(path), timing(51))
    assert path.read_text().startswith(old), "earlier lines are kept as they are"
    assert json.loads(path.read_text().splitlines()[1])["schema_version"] == 1
    assert read_ledger(str(path)) == [timing(), timing(51)]


def test_a_missing_end_of_line_is_added_first(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    append_timing(str(path), timing())
    path.write_text(path.read_text().rstrip("\n"))
    append_timing(str(path), timing(51))
    assert read_ledger(str(path)) == [timing(), timing(51)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("<<<<<<< HEAD", "invalid JSON"),
        ('{"box": "a"}', "model: Field required"),
        ("[]", "the JSON is not an object"),
        ('{"box": 1', "invalid JSON"),
        ("\udcff", "byte 0 is not UTF-8"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "bench.jsonl"
    append_timing(str(path), timing())
    path.write_bytes(path.read_bytes() + f"{line}\n".encode(errors="surrogateescape"))
    with pytest.raises(RecordError, match=r"bench\.jsonl line 2 is not a valid timing") as caught:
        read_ledger(str(path))
    assert reason in str(caught.value)
    assert "restore it from git, or delete the line" in str(caught.value)


def test_a_line_of_a_newer_llamarig_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    append_timing(str(path), timing())
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(RecordError, match=r"bench\.jsonl line 1 was written by a newer llamarig"):
        read_ledger(str(path))


def test_a_ledger_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RecordError, match=r"bench\.jsonl cannot be written \(File exists\): name a file in a directory"
    ):
        append_timing(str(tmp_path / "file" / "bench.jsonl"), timing())


def test_a_line_before_second_turns_clocks_and_kernels_is_read(tmp_path: Path) -> None:
    """As version 0.1.0 wrote it on 2026-11-21; what it did not know is unknown."""
    path = tmp_path / "bench.jsonl"
    old = timing().model_dump(mode="json")
    for name in ("kernel", "workload", "throttled"):
        del old["conditions"][name]
    for card in old["conditions"]["cards"]:
        del card["clock_mhz"]
    del old["second_turn"]
    path.write_text(json.dumps(old) + "\n")
    (found,) = read_ledger(str(path))
    assert (found.second_turn, found.conditions.kernel, found.conditions.workload) == (None, "", "")
    assert all(card.clock_mhz is None for card in found.conditions.cards)
