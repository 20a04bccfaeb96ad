"""What a long test run prints: the files that run, each as it ends, and their durations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.__main__ import DURATIONS, QUICK_FILE_S, expected_minutes, quick, unmeasured_files
from tests.programs import ROOT

PASSES = "def test_one():\n    pass\n\ndef test_two():\n    pass\n"
FAILS = "def test_three():\n    assert not 'this'\n"


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_passes.py").write_text(PASSES)
    (directory / "test_fails.py").write_text(FAILS)
    plugins = ["-p", "no:cacheprovider", "-p", "xdist", "-p", "tests.progress"]
    # Otherwise pytest looks at each entry of the directories above, and one in /tmp may be closed to this user.
    alone = ["-c", os.devnull, f"--rootdir={directory}", f"--confcutdir={directory}"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, *alone, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )


def test_several_processes_report_each_file_once(tmp_path: Path) -> None:
    recorded = tmp_path / "durations.json"
    done = run(tmp_path, "-n", "2", "--dist", "loadfile", f"--record-durations={recorded}", str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    ended = [line for line in done.stdout.splitlines() if "test_passes.py: 2 passed in" in line]
    assert len(ended) == 1, done.stdout
    assert "test_fails.py: 1 failed in" in done.stdout
    table = done.stdout.partition("durations of files")[2]
    assert "test_passes.py: 2 passed" in table
    assert "s  together" in table
    assert not recorded.exists(), "durations of a run that failed are not those of a whole run"


def test_one_process_reports_the_same_and_records_durations(tmp_path: Path) -> None:
    recorded = tmp_path / "durations.json"
    done = run(tmp_path, f"--record-durations={recorded}", "--deselect", "test_fails.py::test_three", str(tmp_path))
    assert "test_passes.py: 2 passed in" in done.stdout, done.stdout + done.stderr
    assert set(json.loads(recorded.read_text())) == {"test_passes.py"}


def test_a_failure_is_shown(tmp_path: Path) -> None:
    done = run(tmp_path, str(tmp_path))
    assert "assert not 'this'" in done.stdout, done.stdout + done.stderr


def test_the_quick_tests_are_files_that_are_known_to_take_seconds() -> None:
    """Regression: a new file was taken for quick, and some of them take minutes."""
    measured = json.loads(DURATIONS.read_text())
    words = quick([])
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    runs = {name for name in files if f"--ignore={name}" not in words and name.split("/")[1] not in ("box", "vm")}
    assert len(runs) > 50
    assert [name for name in sorted(runs) if not measured.get(name, 1000) <= QUICK_FILE_S] == []


def test_a_file_that_was_not_measured_is_left_out_by_name() -> None:
    assert "tests/test_progress.py" in unmeasured_files({})
    assert "tests/test_progress.py" not in unmeasured_files({"tests/test_progress.py": 1.0})


def test_the_expected_duration_is_of_the_tests_that_can_run_here() -> None:
    """Regression: without a box, `check` announced the minutes of all tests."""
    durations = {"tests/box/test_a.py": 600.0, "tests/vm/test_b.py": 60.0, "tests/test_c.py": 30.0}
    assert expected_minutes(durations, 1, []) == 11.5
    assert expected_minutes(durations, 1, ["box"]) == 1.5
    assert expected_minutes(durations, 2, ["box", "vm"]) == 0.25
