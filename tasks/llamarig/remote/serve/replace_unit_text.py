"""Replaces a unit file that differs only in comments or helper paths, without restarting its server.

    python3 -m llamarig.remote.serve.replace_unit_text UNIT RECORD <TEXT

The new text must have the same directives as the installed one. The file keeps its modification time, because a unit
file newer than its server is taken for a change that the server does not run with. RECORD is the unit's start record:
where it is of the old text, it becomes one of the new text.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from llamarig.remote.serve import model_units
from llamarig.remote.serve.model_units import systemctl
from llamarig.remote.serve.switch_journal import JOURNAL, journal_lock, read_start_record
from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.unit_directives import directives, directives_sha256

_LOCK_WAIT_S = 10.0
"""Seconds for the liveness probe to release the lock of switches."""


def main(unit: str, record_path: Path, text: str) -> int:
    """Replace the text in the unit file and the start record.

    :return: 1 where more than comments would change, and while a switch is unfinished
    """
    try:
        with journal_lock(record_path.parent, wait_s=_LOCK_WAIT_S):
            # The new record would look like the end of that switch.
            if not (record_path.parent / JOURNAL).exists():
                return _replace(unit, record_path, text)
    except BlockingIOError:
        pass
    print("a switch of a model is under way, or was interrupted: run deploy.py again", file=sys.stderr)
    return 1


def _replace(unit: str, record_path: Path, text: str) -> int:
    path = model_units.UNITS / unit
    old = path.read_text()
    if directives(old) != directives(text):
        print(f"{path} has changed in more than comments since it was compared: run deploy.py again", file=sys.stderr)
        return 1
    if record_path.exists():
        # Before the unit file: where this program is killed in between, the next deploy replaces the text again.
        _replace_in_record(record_path, unit, old, text)
    status = path.stat()
    replace_file(path, text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    systemctl("daemon-reload")
    return 0


def _replace_in_record(record_path: Path, unit: str, old: str, text: str) -> None:
    record = read_start_record(record_path.parent, unit)
    if record is None or record.text_sha256 != _sha256(old):
        return
    record = replace(
        record,
        text=text,
        job=replace(record.job, text=text),
        text_sha256=_sha256(text),
        directives_sha256=directives_sha256(text),
    )
    replace_file(record_path, json.dumps(record.to_json()))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.stdin.read()))
