"""A program's last words are waited for, though its log is written by a thread it does not wait for itself.

llama-fit-params is played by a script that behaves as the pinned commit's does; tests/box/test_plan.py runs the real
one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Its log goes on in a thread while the program itself is at its end: what is not written by then is lost.
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
    command = [sys.executable, "-B", "-m", "tasks.files.dry_run", seconds, sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_log_is_waited_for(tmp_path: Path) -> None:
    assert run(tmp_path, LOSES_ITS_LOG) == [
        "llama_kv_cache: layer   3: dev = CUDA0",
        "sched_reserve: graph: splits = 105 / 57",
        "CUDA0 1 2 3 ",
        "Host 4 5 6 ",
        "exit=0",
    ]


def test_a_failure_is_told_with_its_status(tmp_path: Path) -> None:
    said = run(tmp_path, "import os\nos.write(2, b'error: invalid argument\\n')\nos._exit(3)")
    assert said == ["error: invalid argument", "exit=3"]


def test_a_crash_is_told_as_a_shell_would(tmp_path: Path) -> None:
    assert run(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGABRT)")[-1] == "exit=134"


def test_one_that_never_ends_is_ended(tmp_path: Path) -> None:
    assert run(tmp_path, "import time\ntime.sleep(600)", "0.5") == ["exit=124"]


def test_one_that_speaks_and_never_logs_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    said = run(tmp_path, "import os\nos.write(2, b'hello\\n')\nos.write(1, b'CUDA0 1 2 3 \\nHost 4 5 6 \\n')")
    assert said == ["CUDA0 1 2 3 ", "Host 4 5 6 ", "exit=0"]


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, "-B", "-m", "tasks.files.dry_run", "5", "/nowhere/llama-fit-params"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "error: /nowhere/llama-fit-params: No such file or directory\nexit=127\n"
