"""The status of a job with special characters, read with the fact's command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from llamarig.facts.jobs import Jobs
from llamarig.remote.shared.jobs import JobStatus
from llamarig.render import layout


@pytest.mark.parametrize(
    "message", ['HTTP 400: {"error":\n"exceeds"}', "a tab\tand \\n, \\c, \\x41", "$HOME %s `id` 'q'"]
)
def test_a_message_survives_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    monkeypatch.setattr(layout, "JOBS", str(tmp_path))
    status = {"state": "failed", "message": message, "lines": [message]}
    (tmp_path / "switch").mkdir()
    (tmp_path / "switch" / "status.json").write_text(json.dumps(status))
    command = Jobs().command(["switch"])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert Jobs().process(done.stdout.splitlines())["switch"].status == JobStatus.from_json(status)
