"""Recorded conversations are private: those that others may read, or git holds, are refused, without their words."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from llamarig.commands.tune_recording import RecordingError, recorded_text
from llamarig.declare.workload import Workload

LINES = [{"role": "user", "content": "secret words"}, {"role": "assistant", "content": "more of them"}]


def recording(directory: Path, text: str | None = None, mode: int = 0o600) -> Workload:
    path = directory / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)) if text is None else text)
    path.chmod(mode)
    return Workload(recording=str(path))


def test_a_private_recording_is_read(tmp_path: Path) -> None:
    assert "secret words" in recorded_text(recording(tmp_path))
    assert recorded_text(Workload(preset="agent")) == ""


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_one_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(RecordingError, match="chmod 600"):
        recorded_text(recording(tmp_path, mode=mode))


def test_one_that_is_in_git_is_refused(tmp_path: Path) -> None:
    declared = recording(tmp_path)
    for words in (["init", "-q"], ["add", "mine.jsonl"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    with pytest.raises(RecordingError, match="git rm --cached"):
        recorded_text(declared)


def test_one_that_is_ignored_by_git_is_read(tmp_path: Path) -> None:
    declared = recording(tmp_path)
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    (tmp_path / ".gitignore").write_text("*.jsonl\n")
    assert recorded_text(declared)


@pytest.mark.parametrize(
    ("text", "why"), [("secret words", "line 1 is not JSON"), ('{"role": "user", "content": "secret words"}', "replay")]
)
def test_a_wrong_one_is_refused_without_its_words(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(RecordingError, match=why) as error:
        recorded_text(recording(tmp_path, text))
    assert "secret" not in str(error.value)


def test_a_missing_one_is_refused() -> None:
    with pytest.raises(RecordingError, match="cannot be read"):
        recorded_text(Workload(recording="/nowhere/a.jsonl"))
