"""The bench ledger on the machine that deploys: read, and added to at its end."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from tasks.spec.bench_ledger import BenchEntry


class LedgerError(Exception):
    """The ledger cannot be read or written; the message says where and what to do."""


def read_ledger(path: str) -> list[BenchEntry]:
    """Every timing so far, the oldest first; none where there is no ledger yet.

    :raises LedgerError: naming the line that is no entry
    """
    file = Path(path)
    if not file.exists():
        return []
    entries = []
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"{path} cannot be read ({error}): restore it from git") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entries.append(BenchEntry.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise LedgerError(
                f"{path} line {number} is no timing ({'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}): "
                "restore it from git, or delete the line"
            ) from None
    return entries


def add_to_ledger(path: str, entry: BenchEntry) -> None:
    """One line more, in one write, so that boxes timed side by side never mix theirs.

    :raises LedgerError: when it cannot be written
    """
    file = Path(path)
    line = json.dumps(entry.model_dump(mode="json"), sort_keys=True) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+b") as ledger:
            # An editor may have left the last line without its end.
            if ledger.tell() and not _ends_its_line(file):
                line = "\n" + line
            ledger.write(line.encode())
    except OSError as error:
        raise LedgerError(f"{path} cannot be written ({error.strerror}): mend that, and time again") from None


def _ends_its_line(file: Path) -> bool:
    with file.open("rb") as ledger:
        ledger.seek(-1, 2)
        return ledger.read(1) == b"\n"
