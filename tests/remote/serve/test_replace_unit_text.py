"""A unit file with new comments or helper paths is replaced while its server runs on, and its start record follows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from llamarig.remote.serve import model_units, replace_unit_text
from llamarig.remote.serve.replace_unit_text import main
from llamarig.remote.serve.switch_journal import JOURNAL, journal_lock, read_start_record
from llamarig.remote.shared.unit_directives import directives_sha256

from tests.remote.serve.switched_box import UNIT, SwitchedBox

OLD = """\
# A comment of an earlier version.
[Service]
ExecStartPre=-/p /opt/llamarig/lib/tasks/files/wait_for_vram.py
ExecStart=/x
"""
NEW = """\
[Service]
# Another comment.
ExecStartPre=-/p /opt/llamarig/lib/llamarig/remote/serve/wait_for_vram.py
ExecStart=/x
"""


@pytest.fixture
def installed(box: SwitchedBox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The old unit file, with an mtime of last year."""
    monkeypatch.setattr(model_units, "UNITS", box.units)
    for name in ("PATH", "LLAMARIG_STAND_IN"):
        monkeypatch.setenv(name, box.environment[name])
    path = box.units / UNIT
    path.write_text(OLD)
    path.chmod(0o644)
    return path


def record_of(text: str) -> str:
    """A start record as earlier versions wrote it: without the digest of the directives."""
    job = {"unit": UNIT, "text": text, "commit": "c" * 40}
    return json.dumps({"text": text, "job": job, "text_sha256": hashlib.sha256(text.encode()).hexdigest()})


def test_the_text_is_replaced_in_the_unit_and_in_its_record(box: SwitchedBox, installed: Path) -> None:
    path = box.records / f"{UNIT}.json"
    path.write_text(record_of(OLD))
    before = installed.stat()
    assert main(UNIT, path, NEW) == 0
    assert installed.read_text() == NEW
    assert (installed.stat().st_mtime_ns, installed.stat().st_mode) == (before.st_mtime_ns, before.st_mode)
    assert (box.root / "loaded" / UNIT).read_text() == NEW, "systemd has read it"
    record = read_start_record(box.records, UNIT)
    assert record is not None
    assert (record.text, record.job.text, record.job.commit) == (NEW, NEW, "c" * 40)
    assert record.text_sha256 == hashlib.sha256(NEW.encode()).hexdigest()
    assert record.directives_sha256 == directives_sha256(NEW) == directives_sha256(OLD)


def test_the_record_of_another_text_is_kept(box: SwitchedBox, installed: Path) -> None:
    path = box.records / f"{UNIT}.json"
    path.write_text(record_of("[Service]\nExecStart=/other\n"))
    before = path.read_text()
    assert main(UNIT, path, NEW) == 0
    assert (installed.read_text(), path.read_text()) == (NEW, before)


def test_a_unit_without_a_record_gets_the_new_text_and_no_record(box: SwitchedBox, installed: Path) -> None:
    assert main(UNIT, box.records / f"{UNIT}.json", NEW) == 0
    assert installed.read_text() == NEW
    assert list(box.records.glob("*.json")) == []


def test_another_command_line_is_refused(box: SwitchedBox, installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = box.records / f"{UNIT}.json"
    path.write_text(record_of(OLD))
    assert main(UNIT, path, NEW.replace("=/x", "=/y")) == 1
    assert "has changed in more than comments since it was compared: run deploy.py again" in capsys.readouterr().err
    assert (installed.read_text(), path.read_text()) == (OLD, record_of(OLD))


def test_the_record_of_a_unit_that_is_being_switched_is_left_alone(
    box: SwitchedBox, installed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new record is how a switch ends: what it had stopped would not be restored."""
    monkeypatch.setattr(replace_unit_text, "_LOCK_WAIT_S", 0.0)
    path = box.records / f"{UNIT}.json"
    path.write_text(record_of(OLD))
    with journal_lock(box.records):
        assert main(UNIT, path, NEW) == 1
    (box.records / JOURNAL).touch()
    assert main(UNIT, path, NEW) == 1
    assert capsys.readouterr().err.count("under way, or was interrupted: run deploy.py again") == 2
    assert (installed.read_text(), path.read_text()) == (OLD, record_of(OLD))
