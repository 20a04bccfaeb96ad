"""The complete log of llama-fit-params is collected, although it exits without waiting for its log thread.

A script with the behaviour of the pinned commit stands in for it; tests/box/test_plan.py runs the real program.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# A thread still writes the log when the program exits; lines that are not written by then are lost.
LOSES_ITS_LOG = """
import os, sys, threading, time
def log():
    time.sleep(0.5)
    os.write(2, b"sched_reserve: graph: splits = 105 / 57\\n")
threading.Thread(target=log, daemon=True).start()
os.write(2, b"llama_kv_cache: layer   3: dev = CUDA0\\nsomething else\\n")
os.write(1, b"CUDA0 1 2 3 \\nHost 4 5 6 \\n")
os._exit(0)
"""


def run(directory: Path, script: str, seconds: str = "30") -> list[str]:
    program = directory / "program.py"
    program.write_text(script)
    command = [sys.executable, "-B", "-m", "llamarig.remote.plan.dry_run", seconds, sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_log_is_complete(tmp_path: Path) -> None:
    assert run(tmp_path, LOSES_ITS_LOG) == [
        "llama_kv_cache: layer   3: dev = CUDA0",
        "sched_reserve: graph: splits = 105 / 57",
        "CUDA0 1 2 3 ",
        "Host 4 5 6 ",
        "exit=0",
    ]


def test_a_failure_is_reported_with_its_exit_status(tmp_path: Path) -> None:
    lines = run(tmp_path, "import os\nos.write(2, b'error: invalid argument\\n')\nos._exit(3)")
    assert lines == ["error: invalid argument", "exit=3"]


def test_a_crash_has_the_exit_status_of_a_shell(tmp_path: Path) -> None:
    assert run(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGABRT)")[-1] == "exit=134"


def test_a_program_beyond_its_time_limit_is_killed(tmp_path: Path) -> None:
    assert run(tmp_path, "import time\ntime.sleep(600)", "0.5") == ["exit=124"]


def test_the_wait_for_a_log_without_the_last_line_is_limited(tmp_path: Path) -> None:
    lines = run(tmp_path, "import os\nos.write(2, b'hello\\n')\nos.write(1, b'CUDA0 1 2 3 \\nHost 4 5 6 \\n')")
    assert lines == ["CUDA0 1 2 3 ", "Host 4 5 6 ", "exit=0"]


def test_a_missing_program_is_reported_with_exit_status_127(tmp_path: Path) -> None:
    command = [sys.executable, "-B", "-m", "llamarig.remote.plan.dry_run", "5", "/nowhere/llama-fit-params"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "error: /nowhere/llama-fit-params: No such file or directory\nexit=127\n"
