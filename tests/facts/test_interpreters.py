"""The Pythons of this machine, and things that are none, asked as a box is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tasks.facts.interpreters import Interpreters
from tasks.planning.interpreter import Interpreter


def ask(*paths: Path | str) -> list[Interpreter]:
    fact = Interpreters()
    command = fact.command([str(path) for path in paths])
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    found = fact.process(said.splitlines())
    return [found[str(path)] for path in paths]


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_python_that_will_do() -> None:
    (found,) = ask(sys.executable)
    assert found == Interpreter((sys.version_info.major, sys.version_info.minor), complete=True)
    assert found.is_usable


def test_none_at_all_and_one_that_crashes(tmp_path: Path) -> None:
    missing, crashing = ask(tmp_path / "nowhere", script(tmp_path / "crashing", "kill -SEGV $$"))
    assert missing == crashing == Interpreter()
    assert not missing.is_usable
    assert str(missing) == "no Python that runs"


def test_too_old_and_too_small(tmp_path: Path) -> None:
    old = script(tmp_path / "old", "echo version=3.8; echo complete=yes")
    # Debian without python3-venv: ensurepip is not there.
    small = script(
        tmp_path / "small", f"shift 2; exec {sys.executable} -S -c \"import sys; sys.modules['ensurepip'] = None; $1\""
    )
    first, second = ask(old, small)
    assert first == Interpreter((3, 8), complete=True)
    assert not first.is_usable
    assert second == Interpreter((sys.version_info.major, sys.version_info.minor), complete=False)
    assert not second.is_usable
    assert str(second).endswith("without venv, ensurepip or ssl")


def test_garbage_is_no_python() -> None:
    fact = Interpreters()
    assert fact.process(["version=3.13", "complete=yes"]) == {}
    assert fact.process(["path=/p", "version=3.x", "version=", "nonsense"]) == {"/p": Interpreter()}
