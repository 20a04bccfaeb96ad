"""Runs in a process that has imported pyinfra already are what runs of the program itself are."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.prepared_pyinfra import PYINFRA, ROOT, run_pyinfra


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("-y", "nowhere.py", "deploy.py"),
        ("-y", "@local", "exec", "--", "sh", "-c", "pwd; echo $HOME $ITS_OWN"),
        ("--no-such-option",),
    ],
)
def test_output_and_exit_status_are_the_same(arguments: tuple[str, ...]) -> None:
    env = {**os.environ, "ITS_OWN": "environment"}
    itself = subprocess.run([PYINFRA, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)
    prepared = run_pyinfra(*arguments, env=env)
    assert (prepared.returncode, prepared.stdout, prepared.stderr) == (
        itself.returncode,
        itself.stdout,
        itself.stderr,
    )


def test_a_run_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run_pyinfra("-y", "@local", "exec", "--", f"echo $$ >{tmp_path}/pid; exec sleep 600", timeout=5)
    assert time.monotonic() - began < 60
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()
